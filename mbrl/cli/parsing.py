"""One typed parser for everything a person writes: YAML files, command lines, keyword arguments.

What was written becomes words under dotted keys (`agent.behaviour.horizon` -> `["10"]`); tyro turns the words into a
frozen dataclass. Every refusal is one sentence (``UserError``), never tyro's own box.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import reprlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from mbrl.core.errors import UserError, nearest

Leaves: TypeAlias = dict[str, Any]
Words: TypeAlias = dict[str, list[str]]
Parsed = TypeVar("Parsed")

# What is set so often that it need not say where it lies.
SHORT = {"size": "agent.size", "precision": "agent.precision"}
HELP = frozenset({"-h", "--help"})
_BOOLS = {"true": "True", "false": "False"}
_SPELLED = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_TYRO = {"use_underscores": True, "config": (tyro.conf.FlagConversionOff,)}


def leaves(cls: Any, prefix: str = "") -> Leaves:
    """Return the type of every field of a dataclass tree under its dotted key, in the order of their definition."""
    origin = get_origin(cls) or cls
    bound = dict(zip(getattr(origin, "__parameters__", ()), get_args(cls), strict=False))
    hints = get_type_hints(origin, include_extras=True)
    found: Leaves = {}
    for field in dataclasses.fields(origin):
        hint = bound.get(hints[field.name], hints[field.name])
        key = prefix + field.name
        if dataclasses.is_dataclass(get_origin(hint) or hint):
            found |= leaves(hint, f"{key}.")
        else:
            found[key] = hint
    return found


def canonical(key: str, known: Leaves, label: str) -> str:
    """Return the field that ``key`` stands for; a group's key stands for its `name` (`env` for `env.name`).

    A few fields have a short name of their own (``SHORT``).

    Args:
        key: dotted, with hyphens or underscores.
        known: the fields that exist.
        label: what precedes the key where it was written, `--` or `file.yaml: `.

    Raises:
        UserError: no such field; the sentence has the nearest one.
    """
    key_ = key.replace("-", "_")
    for candidate in (key_, f"{key_}.name", SHORT.get(key_, key_)):
        if candidate in known:
            return candidate
    if is_group(key_, known):
        raise UserError(f"{label}{key_} is a group of settings and holds {_siblings(f'{key_}.', known)}")
    dashes = "--" if label == "--" else ""
    hint = _nearest_field(key_, known, dashes) or f"; known are {_siblings(key_, known)}"
    thing = f"unknown option {short(key if key.startswith('-') else dashes + key)}" if dashes else (
        f"{label}unknown key {short(key)}")
    raise UserError(thing + hint)


def is_group(key: str, known: Leaves) -> bool:
    """Return whether ``key`` names a group of fields."""
    return any(name.startswith(f"{key}.") for name in known)


def split(tokens: Sequence[str], known: Leaves) -> tuple[list[str], Words]:
    """Split a command line into its positional words and the words given for each option.

    A list takes all words up to the next option, and more where it is given again; a yes-or-no option may stand alone;
    all others take one word.

    Raises:
        UserError: an option that does not exist or lacks its value.
    """
    rest, given = [], {}
    queue = list(tokens)
    while queue:
        token = queue.pop(0)
        if not token.startswith("-") or token == "-":
            rest.append(token)
            continue
        name, equals, value = token.removeprefix("--").partition("=")
        key = canonical(name if token.startswith("--") else token, known, "--")
        words = [value] if equals else _take(queue, known[key], key)
        given[key] = [*given.get(key, []), *words] if _is_list(known[key]) else words
    return rest, given


def parse(cls: Any, words: Mapping[str, Sequence[str]], default: Any = None, label: str = "--") -> Any:
    """Return the dataclass ``cls`` with the fields in ``words`` set, the others as in ``default``.

    Args:
        cls: a dataclass type; may be a generic one, subscripted.
        words: dotted field names and what was written for each.
        default: an instance of ``cls``, or None for the class's own defaults.
        label: what precedes a key in an error, `--` or `file.yaml: `.

    Raises:
        UserError: a value of the wrong type, a value missing, or one that the dataclass itself refuses.
    """
    known = leaves(cls)
    words = {key: [_normal(word, known[key]) for word in written] for key, written in words.items()}
    try:
        return _tyro(cls, _tokens(words, known), default)
    except SystemExit as refusal:
        _reraise_own(refusal)
    raise _refused(cls, words, default, label)


def command(cls: type[Parsed], argv: Sequence[str], prog: str) -> Parsed | None:
    """Return a command's arguments, or print its help and return None where that is asked for.

    Raises:
        UserError: an argument that is missing, superfluous or wrong.
    """
    if HELP & set(argv):
        print(help_text(cls, prog))
        return None
    known = leaves(cls)
    places = [key for key in known if _positional(known[key])]
    rest, words = split(argv, known)
    if len(rest) < len(places):
        raise UserError(f"{prog} needs {places[len(rest)].upper()}; `{prog} --help` shows how it is used")
    if len(rest) > len(places):
        raise UserError(f"{prog} has no place for {short(rest[len(places)])}; `{prog} --help` shows how it is used")
    return parse(cls, {key: [word] for key, word in zip(places, rest, strict=True)} | words)


def help_text(cls: Any, prog: str, default: Any = None) -> str:
    """Return the page that explains each field of ``cls``, with the defaults of ``default`` where it is given."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        tyro.cli(cls, args=["--help"], prog=prog, **_TYRO, **({} if default is None else {"default": default}))
    return page.getvalue()


def short(text: str) -> str:
    """Return the repr of what was given, cut in the middle where it is long."""
    shortener = reprlib.Repr()
    shortener.maxstring = 80
    return shortener.repr(text)


def _tyro(cls: Any, tokens: list[str], default: Any) -> Any:
    # tyro prints its refusals and raises SystemExit; what it prints is replaced by one sentence of ours.
    with contextlib.redirect_stderr(io.StringIO()):
        options = _TYRO | ({} if default is None else {"default": default})
        return tyro.cli(cls, args=tokens, console_outputs=False, **options)


def _refused(cls: Any, words: Mapping[str, Sequence[str]], default: Any, label: str) -> UserError:
    """Return the error that names the first of ``words`` that is refused by itself."""
    known = leaves(cls)
    required = {key: written for key, written in words.items() if _positional(known[key])}
    for key, written in words.items():
        try:
            _tyro(cls, _tokens(required | {key: written}, known), default)
        except SystemExit:
            given = short(" ".join(written))
            return UserError(f"{label}{key} is {given}, but must be {_demand(known[key], written)}")
    return UserError(f"these settings do not go together: {short(' '.join(_tokens(words, known)))}")


def _reraise_own(refusal: BaseException) -> None:
    """Raise the UserError (of a dataclass's `__post_init__`) that tyro turned into an exit, if there is one."""
    cause: BaseException | None = refusal
    while cause is not None:
        if isinstance(cause, UserError):
            raise cause from None
        cause = cause.__cause__ or cause.__context__


def _tokens(words: Mapping[str, Sequence[str]], known: Leaves) -> list[str]:
    tokens: list[str] = []
    for key, written in words.items():
        if _positional(known[key]):
            tokens += written
        elif len(written) == 1:
            tokens.append(f"--{key}={written[0]}")
        else:
            tokens += [f"--{key}", *written]
    return tokens


def _take(queue: list[str], hint: Any, key: str) -> list[str]:
    """Remove and return the words at the head of ``queue`` that belong to an option of type ``hint``."""
    kinds = list(_kinds(hint))
    if _is_list(hint):
        taken = []
        while queue and not queue[0].startswith("--"):
            taken.append(queue.pop(0))
        return taken
    if bool in kinds:
        return [queue.pop(0)] if queue and queue[0].lower() in _BOOLS else ["True"]
    if not queue or queue[0].startswith("--"):
        raise UserError(f"--{key} needs a value: {_demand(hint, [])}")
    return [queue.pop(0)]


def _is_list(hint: Any) -> bool:
    return any(get_origin(kind) in {tuple, list} for kind in _kinds(hint))


def _normal(word: str, hint: Any) -> str:
    kinds = list(_kinds(hint))
    if bool in kinds:
        return _BOOLS.get(word.lower(), word)
    if type(None) in kinds and word.lower() in {"null", "none"}:
        return "None"
    return _whole(word) if int in kinds and float not in kinds else word


def _whole(word: str) -> str:
    """Return a whole number written as `1e6` in digits, anything else as it is."""
    match = re.fullmatch(r"([+-]?\d+)[eE]\+?(\d{1,2})", word)
    return match[1] + "0" * int(match[2]) if match else word


def _kinds(hint: Any) -> Iterator[Any]:
    """Yield the alternatives of a type, without annotations around them."""
    if get_origin(hint) is Annotated:
        yield from _kinds(get_args(hint)[0])
    elif get_origin(hint) in {Union, types.UnionType}:
        for part in get_args(hint):
            yield from _kinds(part)
    else:
        yield hint


def _demand(hint: Any, written: Sequence[str]) -> str:
    """Return what a value of type ``hint`` must be, in words, with the nearest choice where there are choices."""
    demands = []
    for kind in _kinds(hint):
        if get_origin(kind) is Literal:
            choices = [str(choice) for choice in get_args(kind)]
            listed = f"one of {', '.join(choices)}" if len(choices) > 1 else repr(choices[0])
            demands.append(listed + nearest(" ".join(written), choices))
        elif get_origin(kind) in {tuple, list}:
            demands.append(f"a list, each {_demand(get_args(kind)[0], [])}")
        else:
            demands.append(_SPELLED.get(kind, str(kind)))
    return " or ".join(demands)


def _positional(hint: Any) -> bool:
    return get_origin(hint) is Annotated and tyro.conf.Positional in get_args(hint)


def _siblings(key: str, known: Leaves) -> str:
    """Return the names beside which ``key`` was looked for, in words."""
    prefix = key.rpartition(".")[0]
    while prefix and not is_group(prefix, known):
        prefix = prefix.rpartition(".")[0]
    start = f"{prefix}." if prefix else ""
    heads = {name.removeprefix(start).partition(".")[0] for name in known if name.startswith(start)}
    return ", ".join(start + head for head in sorted(heads))


def _nearest_field(key: str, known: Leaves, dashes: str) -> str:
    """Return a hint to the field nearest to ``key``: as a whole, or by its last name (`horizon`)."""
    whole = nearest(dashes + key, [dashes + name for name in known])
    if whole:
        return whole
    by_last = {name.rpartition(".")[2]: name for name in reversed(known)}
    matches = difflib.get_close_matches(key.rpartition(".")[2], by_last, n=1, cutoff=0.7)
    return f"; did you mean {dashes + by_last[matches[0]]!r}?" if matches else ""
