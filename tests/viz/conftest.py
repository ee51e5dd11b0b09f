import pytest

from mbrl.viz import figures


@pytest.fixture
def drawn(monkeypatch):
    """Catch each figure on its way to the PNG."""
    caught, write = [], figures.png

    def catch(figure):
        caught.append(figure)
        return write(figure)

    monkeypatch.setattr(figures, "png", catch)
    return caught
