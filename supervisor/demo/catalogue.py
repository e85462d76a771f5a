"""The shop's SQLite file: made and filled at import, then read and written by every worker of every instance.

May touch one folder: `$DEMO_DATA`, else one of the user's own beneath the system's temporary directory. Promises that any number
of processes may start at the same instant: each fills a file of its own and links it into place, the first one wins, and nobody
ever waits for a lock to begin. WAL lets readers go on beside a writer.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "store-1.sqlite"  # the number is the schema's: another schema takes another file, and nothing has to be migrated
BUSY_LIMIT_S = 2.0  # how long a writer waits for another one: a write takes milliseconds, a request may not take seconds

_SCHEMA = """
CREATE TABLE products (slug TEXT PRIMARY KEY, name TEXT NOT NULL, price_cents INTEGER NOT NULL, blurb TEXT NOT NULL,
                       story TEXT NOT NULL, place INTEGER NOT NULL);
CREATE TABLE coupons (code TEXT PRIMARY KEY, kind TEXT NOT NULL, percent INTEGER NOT NULL, floor_cents INTEGER NOT NULL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, placed_wall TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
                     total_cents INTEGER NOT NULL, coupon TEXT NOT NULL);
CREATE TABLE order_lines (order_id INTEGER NOT NULL REFERENCES orders(id), slug TEXT NOT NULL, count INTEGER NOT NULL,
                          price_cents INTEGER NOT NULL);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

_PRODUCTS = (
    (
        "mug",
        "Harbour mug",
        1450,
        "Stoneware, 35 cl",
        "Thrown by hand, glazed in the blue of a harbour before rain. It keeps its heat for a whole chapter.",
    ),
    (
        "lamp",
        "Reading lamp",
        6900,
        "Brass and linen",
        "A warm circle on the page and nothing in the eyes. The arm stays where it is put, for years.",
    ),
    (
        "notebook",
        "Field notebook",
        990,
        "96 dotted pages",
        "Lies flat, forgives fountain pens, survives a coat pocket. The last page says how to bind the next one.",
    ),
    ("chair", "Kitchen chair", 18900, "Ash, oiled", "Four legs, no wobble. Made to be leaned back in, although nobody should."),
    (
        "plant",
        "Rubber fig",
        3200,
        "In a clay pot",
        "Asks for water on Sundays and for nothing else. Grows towards whoever talks to it.",
    ),
    (
        "clock",
        "Wall clock",
        4550,
        "Silent sweep",
        "It does not tick. It is never wrong by more than a second a month, and does not boast of it.",
    ),
    ("kettle", "Slow kettle", 7800, "Enamel, 1.2 l", "Takes a minute longer than the quick ones. The tea can tell."),
    ("rucksack", "Canvas rucksack", 12900, "22 litres", "Waxed canvas, two straps, one pocket that is always the right one."),
)

_COUPONS = (
    ("WELCOME10", "percent", 10, 0),
    ("SPRING", "step", 10, 2500),
    ("LOOP", "step", 10, 0),
    ("CRASH", "partner", 20, 0),
    ("SLOW", "loyalty", 15, 0),
    ("LEAK", "neighbours", 5, 0),
)


@dataclass(frozen=True, slots=True)
class Product:
    slug: str
    name: str
    price_cents: int
    blurb: str
    story: str


@dataclass(frozen=True, slots=True)
class Coupon:
    code: str
    kind: str
    percent: int
    floor_cents: int  # a "step" coupon stops below this


def data_dir() -> Path:
    """The folder of the shop's file, made if need be; raises OSError when it is not this user's own."""
    chosen = os.environ.get("DEMO_DATA")
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"reviver-demo-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=bool(chosen), exist_ok=True)
    if not chosen and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        raise PermissionError(f"{folder} belongs to somebody else: name another folder in DEMO_DATA")
    return folder


def prepare() -> Path:
    """The shop's file, filled. Safe with any number of processes at once; raises OSError or sqlite3.Error."""
    folder = data_dir()
    file = folder / FILE_NAME
    if not file.exists():
        draft = folder / f".{FILE_NAME}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            _fill(draft)
            os.link(draft, file)
        except FileExistsError:
            pass  # another process was first, and its file is as good
        finally:
            draft.unlink(missing_ok=True)
    return file


def _fill(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_SCHEMA)
        db.executemany(
            "INSERT INTO products VALUES (?, ?, ?, ?, ?, ?)",
            [(*product, place) for place, product in enumerate(_PRODUCTS)],
        )
        db.executemany("INSERT INTO coupons VALUES (?, ?, ?, ?)", _COUPONS)
        db.execute("INSERT INTO settings VALUES ('secret', ?)", (secrets.token_hex(32),))


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that commits when its block ends well, and is closed in any case."""
    with closing(sqlite3.connect(file, timeout=BUSY_LIMIT_S)) as db, db:
        yield db


def secret(file: Path) -> str:
    """What signs the cart cookies: one for all workers and instances, so that a cart outlives the process that served it."""
    with opened(file) as db:
        (value,) = db.execute("SELECT value FROM settings WHERE name = 'secret'").fetchone()
        return str(value)


def products(db: sqlite3.Connection) -> tuple[Product, ...]:
    return tuple(Product(*row) for row in db.execute("SELECT slug, name, price_cents, blurb, story FROM products ORDER BY place"))


def product(db: sqlite3.Connection, slug: str) -> Product | None:
    row = db.execute("SELECT slug, name, price_cents, blurb, story FROM products WHERE slug = ?", (slug,)).fetchone()
    return Product(*row) if row else None


def coupon(db: sqlite3.Connection, code: str) -> Coupon | None:
    row = db.execute("SELECT code, kind, percent, floor_cents FROM coupons WHERE code = ?", (code.upper(),)).fetchone()
    return Coupon(*row) if row else None


def place_order(db: sqlite3.Connection, lines: tuple[tuple[Product, int], ...], total_cents: int, code: str) -> str:
    """Write the order down; returns the token that shows it to whoever placed it."""
    token = secrets.token_urlsafe(12)
    cursor = db.execute("INSERT INTO orders (token, total_cents, coupon) VALUES (?, ?, ?)", (token, total_cents, code))
    db.executemany(
        "INSERT INTO order_lines VALUES (?, ?, ?, ?)",
        [(cursor.lastrowid, product.slug, count, product.price_cents) for product, count in lines],
    )
    return token


def order(db: sqlite3.Connection, token: str) -> tuple[int, int] | None:
    """(number, total in cents) of an order, or None."""
    row = db.execute("SELECT id, total_cents FROM orders WHERE token = ?", (token,)).fetchone()
    return (int(row[0]), int(row[1])) if row else None
