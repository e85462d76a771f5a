"""One TOML value in, one typed value out, or Refused, which says in words what is wrong and how to mend it.

Pure: what an operator may write for a duration, an address, a command, a channel, and how such values are spelled in texts for
people. `config` puts these readers into its table; which keys there are is not known here.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from string import Template
from typing import Any
from urllib.parse import urlsplit

SHOWN_LIMIT = 60  # characters of a value in an error
DURATION_LIMIT_S = 3650 * 86400.0  # ten years, and
SIZE_LIMIT_BYTES = 1 << 50  # a pebibyte: beyond them it is a typing error
SOCKET_PATH_LIMIT_BYTES = 107  # unix(7): sun_path has 108 bytes, the last is zero


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One fault, the operator's to mend. `value` is what was written, as shown to people; "" where it may be a secret."""

    file: str
    key: str
    problem: str
    mend: str
    value: str = ""

    def __str__(self) -> str:
        where = f"{self.key} = {self.value}" if self.value else self.key
        what = f"{self.problem}; {self.mend}" if self.mend else self.problem
        return ": ".join(part for part in (self.file, where, what) if part)


class Refused(Exception):
    """A value that its reader refuses."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(problem)
        self.problem, self.mend = problem, mend


# --- durations and sizes --------------------------------------------------------------------------------------------------------

_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_BYTES: dict[str, int] = {
    "TiB": 1 << 40,
    "GiB": 1 << 30,
    "MiB": 1 << 20,
    "KiB": 1 << 10,
    "TB": 10**12,
    "GB": 10**9,
    "MB": 10**6,
    "KB": 10**3,
    "B": 1,
}
_AMOUNT = r"[0-9]{1,16}(?:\.[0-9]{1,6})?"
_DURATION = re.compile("".join(rf"(?:({_AMOUNT}){unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms")))
_SIZE = re.compile(rf"({_AMOUNT})({'|'.join(_BYTES)})")


def _millionths(amount: str) -> int:
    """An amount with at most six decimals, exactly."""
    whole, _, decimals = amount.partition(".")
    return int(whole) * 1_000_000 + int(decimals.ljust(6, "0"))


def duration_s(text: str) -> float:
    """Seconds of a duration such as "500ms", "2s" or "1h30m": amounts with units, from the greatest unit to the least.

    Raises ValueError when it is none.
    """
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        raise ValueError("is no duration")
    amounts = zip(found.groups(), _MILLISECONDS.values(), strict=True)
    return sum(_millionths(amount) * unit for amount, unit in amounts if amount) / (1000 * 1_000_000)


def spell_duration(seconds: float) -> str:
    """The duration as an operator writes it, to the millisecond: `duration_s` reads it back."""
    left = round(seconds * 1000)
    parts = []
    for unit, size in _MILLISECONDS.items():
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"


def size_bytes(text: str) -> int:
    """Bytes of a size such as "64KiB", "50MB" or "0". Raises ValueError when it is none."""
    if text == "0":
        return 0
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError("is no size")
    return _millionths(found[1]) * _BYTES[found[2]] // 1_000_000


def spell_size(count: int) -> str:
    """The size as an operator writes it, exactly: `size_bytes` reads it back."""
    unit, size = next((unit, size) for unit, size in _BYTES.items() if count >= size and count % size == 0) if count else ("B", 1)
    return f"{count // size}{unit}"


# --- texts for people -----------------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """The text with everything that could move a cursor escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def quoted(text: str) -> str:
    short = text if len(text) <= SHOWN_LIMIT else text[:SHOWN_LIMIT] + "..."
    return '"' + printable(short.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def shown(value: Any) -> str:
    """A TOML value in an error, short, on one line."""
    match value:
        case str():
            return quoted(value)
        case bool():
            return str(value).lower()
        case int():
            return str(value) if abs(value) < 10**18 else "a huge number"
        case list():
            if len(value) <= 4 and all(isinstance(item, str) for item in value):
                return f"[{', '.join(map(quoted, value))}]"
            return "[...]"
        case dict():
            return "{...}"
        case _:
            return printable(str(value))


def dotted(path: str, name: str) -> str:
    word = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else quoted(name)
    return f"{path}.{word}" if path else word


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, as a question; "" when there is none."""
    import difflib  # only a slip of the fingers needs it: the daemon starts without

    near = difflib.get_close_matches(name[:SHOWN_LIMIT], list(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


# --- readers: a TOML value in, a typed value out, or Refused -------------------------------------------------------------------

Reader = Callable[[Any], Any]


def kind(value: Any) -> str:
    names = {bool: "true or false", str: "a string", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


def any_text(value: Any) -> str:
    """Any string that the kernel takes."""
    if not isinstance(value, str):
        mend = f'write "{value}"' if type(value) in (int, float) and abs(value) < 10**9 else "write a string in quotes"
        raise Refused(f"is {kind(value)}, not a string", mend)
    if "\0" in value:
        raise Refused("holds a NUL character", "leave it out")
    return value


def line(value: Any) -> str:
    """A string of one line: a name, a path, an address."""
    text = any_text(value)
    if not text.isprintable():
        raise Refused("holds a control character", "write it on one line, of characters that can be read")
    return text


def path(value: Any) -> str:
    """A path; what it is relative to is not decided here."""
    if value == "":
        raise Refused("is empty", "write a path, or leave the key out")
    return line(value)


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refused(f"is {kind(value)}", "write true or false, without quotes")
    return value


def number(least: float, most: float, *, whole: bool = True) -> Reader:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise Refused(f"is {kind(value)}", f"write a {'whole ' if whole else ''}number without quotes")
        if not least <= value <= most:
            raise Refused("is out of range", f"write a number from {least:g} to {most:g}")
        return value

    return read


def duration(least: str = "0s", *, off: bool = False) -> Reader:
    least_s = duration_s(least)
    example = 'write a unit, e.g. "500ms" "2s" "5m" "1h30m"' + (', or "off"' if off else "")

    def read(value: Any) -> float | None:
        if off and value == "off":
            return None
        if type(value) in (int, float):
            raise Refused("is a bare number, without a unit", f'write "{value}s"' if 0 < value < 10**6 else example)
        text = line(value)
        if text.startswith("-"):
            raise Refused("is negative", f"write {least} or more")
        if text == "off":
            raise Refused("cannot be switched off", example)
        try:
            seconds = duration_s(text)
        except ValueError as problem:
            raise Refused(str(problem), example) from None
        if seconds < least_s:
            raise Refused("is too short", f'write "{least}" or more')
        if seconds > DURATION_LIMIT_S:
            raise Refused("is too long", f'write "{spell_duration(DURATION_LIMIT_S)}" or less')
        return seconds

    return read


def size(least: int = 0, *, off: bool = False) -> Reader:
    example = 'write a unit, e.g. "64KiB" "50MB" "1GiB"' + (', or "off"' if off else "")

    def read(value: Any) -> int | None:
        if off and value == "off":
            return None
        if type(value) in (int, float):
            raise Refused("is a bare number, without a unit", example)
        text = line(value)
        if text.startswith("-"):
            raise Refused("is negative", f"write {spell_size(least)} or more")
        try:
            count = size_bytes(text)
        except ValueError as problem:
            raise Refused(str(problem), example) from None
        if not least <= count <= SIZE_LIMIT_BYTES:
            raise Refused("is out of range", f"write a size from {spell_size(least)} to {spell_size(SIZE_LIMIT_BYTES)}")
        return count

    return read


def choice(options: Mapping[str, Any]) -> Reader:
    known = " or ".join(f'"{name}"' for name in options)

    def read(value: Any) -> Any:
        if not isinstance(value, str) or value not in options:
            raise Refused("is not one of its values", f"write {known}")
        return options[value]

    return read


def auto(read: Reader, chosen: Any = None) -> Reader:
    """`"auto"`, read as `chosen`, or what the other reader takes."""

    def read_auto(value: Any) -> Any:
        return chosen if value == "auto" else read(value)

    return read_auto


def several(read: Reader) -> Reader:
    """A list, each item by the same reader; the first bad item is named by its place."""

    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise Refused(f"is {kind(value)}, not a list", "write it in brackets: [...]")
        items = []
        for number, item in enumerate(value, 1):
            try:
                items.append(read(item))
            except Refused as bad:
                raise Refused(f"item {number} {bad.problem}", bad.mend) from None
        return tuple(items)

    return read_all


def command(value: Any) -> tuple[str, ...]:
    """A list of words, or one string that is split as a shell splits words. Empty where the key may be left out."""
    if isinstance(value, str):
        try:
            words = tuple(shlex.split(any_text(value)))
        except ValueError as problem:
            raise Refused(
                f"cannot be split into words ({str(problem).lower()})", "close the quotes, or write a list of words"
            ) from None
    else:
        words = several(any_text)(value)
    if words and not words[0]:
        raise Refused("names no program to run", "let its first word be a command")
    return words


def needed_command(value: Any) -> tuple[str, ...]:
    words = command(value)
    if not words:
        raise Refused("is empty", 'write the program and its arguments, e.g. ["gunicorn", "store.wsgi"]')
    return words


def environment(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Refused(f"is {kind(value)}, not a table", 'write { NAME = "value" }')
    for name, item in value.items():
        if not name or "=" in name or not name.isprintable():
            raise Refused(f"{quoted(name)} cannot name a variable", "use letters, digits and _")
        if not isinstance(item, str) or "\0" in item:
            raise Refused(
                f"{quoted(name)} is {kind(item)}" if not isinstance(item, str) else f"{quoted(name)} holds a NUL character",
                "write its value as a string in quotes",
            )
    return dict(value)


def umask(value: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise Refused("is no umask", 'write three octal digits in quotes, e.g. "022"')
    return int(value, 8)


def signal_name(value: Any) -> str:
    """A signal's name without SIG."""
    name = line(value).removeprefix("SIG")
    known = [known.name.removeprefix("SIG") for known in signal.Signals]
    if name not in known:
        raise Refused("is no signal", suggestion(name.upper(), known) or 'write its name, e.g. "TERM"')
    if name in ("KILL", "STOP"):
        raise Refused("asks for nothing: no program can hear it", 'write a signal that it handles, e.g. "TERM"')
    return name


def reload_way(value: Any) -> str:
    return "restart" if value == "restart" else signal_name(value)


HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")


def host_port(value: Any) -> str:
    text = line(value)
    found = HOST_PORT.fullmatch(text)
    if found is None:
        raise Refused("is no address", 'write host:port, e.g. "127.0.0.1:8000" or "[::]:80"')
    six, host, port = found.groups()
    try:
        if six is not None:
            socket.inet_pton(socket.AF_INET6, six)
        elif re.fullmatch(r"[0-9.]+", host):
            socket.inet_pton(socket.AF_INET, host)
    except OSError:
        raise Refused("holds no valid IP address", 'write it like "127.0.0.1:8000" or "[::1]:8000"') from None
    if not 1 <= int(port) <= 65535:
        raise Refused(f"names port {port}, which does not exist", "write a port from 1 to 65535")
    return text


def address(value: Any) -> str:
    """`host:port` or `unix:/path`."""
    text = line(value)
    if not text.startswith("unix:"):
        return host_port(value)
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        raise Refused("is no absolute path", 'write it like "unix:/run/store.sock"')
    if (length := len(os.fsencode(path))) > SOCKET_PATH_LIMIT_BYTES:
        raise Refused(f"has {length} bytes, and the kernel takes {SOCKET_PATH_LIMIT_BYTES}", "choose a shorter path")
    return text


def canonical(address: str) -> str:
    """The address in the one spelling that two of the same share."""
    found = HOST_PORT.fullmatch(address)
    if found is None:
        return address
    host = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, found[1])) if found[1] else found[2].lower()
    return f"{host} {int(found[3])}"


def addresses(value: Any) -> tuple[str, ...]:
    """Addresses to hold, none of them twice."""
    found: tuple[str, ...] = several(address)(value)
    seen: set[str] = set()
    for one in found:
        if canonical(one) in seen:
            raise Refused(f"names {one} twice", "leave one out")
        seen.add(canonical(one))
    return found


def empty_or(read: Reader) -> Reader:
    """`""`, which is "not used", or what the other reader takes."""

    def read_filled(value: Any) -> Any:
        return "" if value == "" else read(value)

    return read_filled


def http(value: Any) -> str:
    """A path, or a whole http:// URL."""
    text = line(value)
    if " " in text:
        raise Refused("holds a blank", "write %20")
    if text.startswith("/"):
        return text
    if not _is_url(text, ("http",)):
        raise Refused("is neither a path nor an http:// address", 'write "/health", or "http://127.0.0.1:8000/health"')
    return text


def web(value: Any) -> str:
    """A whole http:// or https:// address."""
    text = line(value)
    if " " in text or not text.isascii() or not _is_url(text, ("http", "https")):
        raise Refused("is no http:// or https:// address", 'write "https://host/path"')
    return text


def template(*names: str) -> Reader:
    """A text in which `$name` stands for what is known only then."""

    def read(value: Any) -> str:
        text = any_text(value)
        found = Template(text)
        if not found.is_valid():
            raise Refused("has a $ that names nothing", "write $$ for the sign itself")
        strange = [name for name in found.get_identifiers() if name not in names]
        if strange:
            raise Refused(f"names ${strange[0]}", f"there are {', '.join(f'${name}' for name in names)}")
        if not text.strip() or not text.replace("\n", " ").isprintable():
            raise Refused("is empty, or holds a control character", "write what people shall read")
        return text

    return read


def time_of_day(value: Any) -> int:
    """Minutes since midnight."""
    found = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", line(value))
    if found is None:
        raise Refused("is no time of day", 'write hours and minutes, e.g. "02:00" or "23:30"')
    return int(found[1]) * 60 + int(found[2])


def program_name(value: Any) -> str:
    name = line(value)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise Refused("is no program's name", "use at most 64 letters, digits, - and _")
    return name


BUILT_IN_CHANNELS = ("command", "webhook", "journal")
# schemes of the notification library that they are handed to
_OTHER_CHANNELS = """
mailto mailtos slack discord tgram msteams workflows pagerduty opsgenie ntfy ntfys gotify gotifys pover pbul matrix matrixs rocket
rockets mmost mmosts twilio signal signals sns ses json jsons xml xmls form forms gchat zulip wxteams victorops splunk sendgrid
mailgun vonage pushy prowl onesignal hassio hassios mqtt mqtts syslog
"""
OTHER_CHANNELS = frozenset(_OTHER_CHANNELS.split())


def channel(value: Any) -> str:
    """Where a message goes: `command:/path ARGUMENTS`, `webhook:https://...`, `journal:`, or `SCHEME://...`."""
    text = line(value)
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in (*BUILT_IN_CHANNELS, *OTHER_CHANNELS):
        mend = (
            suggestion(scheme, (*BUILT_IN_CHANNELS, *OTHER_CHANNELS)) or 'write e.g. "command:/usr/local/bin/page", "mailto://..."'
        )
        raise Refused("names no known way to tell people", mend)
    if scheme == "command":
        _page_command(rest)
    elif scheme == "webhook":
        if not _is_url(rest, ("http", "https")):
            raise Refused("names no http:// or https:// address", "write webhook:https://host/path")
    elif scheme == "journal" and rest:
        raise Refused("has something after journal:", 'write "journal:"')
    elif scheme in OTHER_CHANNELS and not rest.startswith("//"):
        raise Refused(f"has no // after {scheme}:", f'write "{scheme}://..."')
    return text


def _page_command(rest: str) -> None:
    mend = "write the whole path, e.g. command:/usr/local/bin/page"
    try:
        words = shlex.split(rest)
    except ValueError:
        raise Refused("has quotes that are not closed", mend) from None
    if not words or not words[0].startswith("/"):
        raise Refused("names no command by an absolute path", mend)


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in schemes and bool(url.hostname) and url.port != 0
    except ValueError:  # brackets that are no address, a port that is no number
        return False
