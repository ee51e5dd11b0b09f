"""Two bonded processes without JAX: prints a line once bonded, then waits. For a process of its own."""

import sys
import threading

from mbrl.runner import muster
from mbrl.runner.bond import Bond
from mbrl.runner.launch import address

place, number = address(sys.argv[1]), int(sys.argv[2])
if number:
    links = {0: muster.come(place, number, 2, 240.0)[0]}
else:
    with muster.listening(place) as server:
        links = muster.receive(server, 2, 240.0)
    muster.tell(links, {"told": {}})
bond = Bond(links, beat=0.2, silence=4.0)
print("bonded", flush=True)
threading.Event().wait(240)
