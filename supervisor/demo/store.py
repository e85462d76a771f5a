"""A small real shop: catalogue, product, cart, checkout. The WSGI object is `supervisor.demo.store:app`.

Some of its coupons hurt, as in the incident: `/checkout?coupon=LOOP` never ends, `CRASH` takes the whole server down, `SLOW` is an
8 s report that ends, `LEAK` grows by 20 MB/s in the background up to a ceiling. `DEMO_BOOT_S` makes its import slow, for benches.
It knows nothing of Reviver, and Reviver nothing of it.
"""

from __future__ import annotations

import os
import time

from flask import Flask, Response, abort, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from supervisor.demo import catalogue, faults
from supervisor.demo.catalogue import Coupon, Product

SHIPPING_CENTS = 490
COUNT_LIMIT = 99  # of one product in a cart

time.sleep(float(os.environ.get("DEMO_BOOT_S", "0")))
_file = catalogue.prepare()

app = Flask(__name__)
app.secret_key = catalogue.secret(_file)
app.config.update(SESSION_COOKIE_NAME="cart", SESSION_COOKIE_SAMESITE="Lax", MAX_CONTENT_LENGTH=64 * 1024)


def apply_coupon(total_cents: int, coupon: Coupon) -> int:
    """What is left to pay, in cents.

    A "step" coupon takes its share off again and again until the total has come down to the coupon's floor.
    """
    if coupon.kind == "step":
        while total_cents > coupon.floor_cents:
            total_cents -= total_cents * coupon.percent // 100
        return total_cents
    if coupon.kind == "partner":
        faults.abort_server(request.environ.get("SERVER_SOFTWARE", ""))
    if coupon.kind == "loyalty":
        return total_cents - total_cents * max(coupon.percent, faults.loyalty_report()) // 100
    if coupon.kind == "neighbours":
        faults.remember_neighbours()
    return total_cents - total_cents * coupon.percent // 100


@app.template_filter("money")
def money(cents: int) -> str:
    return f"€ {cents // 100}.{cents % 100:02}"


@app.context_processor
def cart_size() -> dict[str, int]:
    return {"cart_count": sum(_cart().values())}


@app.get("/")
def catalogue_page() -> str:
    with catalogue.opened(_file) as db:
        return render_template("catalogue.html", products=catalogue.products(db))


@app.get("/product/<slug>")
def product_page(slug: str) -> str:
    with catalogue.opened(_file) as db:
        product = catalogue.product(db, slug)
    if product is None:
        abort(404)
    return render_template("product.html", product=product)


@app.get("/cart")
def cart_page() -> str:
    lines = _lines()
    return render_template("cart.html", lines=lines, items_cents=_items_cents(lines))


@app.post("/cart/<slug>")
def change_cart(slug: str) -> AnyResponse:
    """Set how many of a product are wanted (`count`), or one more without it."""
    with catalogue.opened(_file) as db:
        if catalogue.product(db, slug) is None:
            abort(404)
    cart = _cart()
    count = request.form.get("count", default=cart.get(slug, 0) + 1, type=int)
    cart[slug] = min(max(count, 0), COUNT_LIMIT)
    session["cart"] = {name: wanted for name, wanted in cart.items() if wanted}
    return redirect(url_for("cart_page"), code=303)


@app.get("/checkout")
def checkout_page() -> str:
    """What the order costs, with the coupon of the query applied."""
    lines = _lines()
    code = request.args.get("coupon", "").strip()
    before_cents = _items_cents(lines) + SHIPPING_CENTS
    coupon = _coupon(code)
    total_cents = apply_coupon(before_cents, coupon) if coupon else before_cents
    return render_template(
        "checkout.html",
        lines=lines,
        shipping_cents=SHIPPING_CENTS,
        code=code,
        coupon=coupon,
        saved_cents=before_cents - total_cents,
        total_cents=total_cents,
    )


@app.post("/checkout")
def place_order() -> AnyResponse:
    lines = _lines()
    if not lines:
        return redirect(url_for("cart_page"), code=303)
    coupon = _coupon(request.form.get("coupon", "").strip())
    total_cents = _items_cents(lines) + SHIPPING_CENTS
    if coupon:
        total_cents = apply_coupon(total_cents, coupon)
    with catalogue.opened(_file) as db:
        token = catalogue.place_order(db, lines, total_cents, coupon.code if coupon else "")
    session.pop("cart", None)
    return redirect(url_for("order_page", token=token), code=303)


@app.get("/order/<token>")
def order_page(token: str) -> str:
    with catalogue.opened(_file) as db:
        order = catalogue.order(db, token)
    if order is None:
        abort(404)
    number, total_cents = order
    return render_template("order.html", number=number, total_cents=total_cents)


@app.get("/health")
def health() -> Response:
    """200 when the catalogue can be read: an answer that did not touch the database would prove little."""
    with catalogue.opened(_file) as db:
        count = len(catalogue.products(db))
    return Response(f"ok: {count} products\n", mimetype="text/plain")


@app.errorhandler(404)
def not_found(_: Exception) -> tuple[str, int]:
    return render_template("missing.html"), 404


def _cart() -> dict[str, int]:
    return dict(session.get("cart", {}))


def _coupon(code: str) -> Coupon | None:
    if not code:
        return None
    with catalogue.opened(_file) as db:
        return catalogue.coupon(db, code)


def _lines() -> tuple[tuple[Product, int], ...]:
    """What is in the cart; a product that is sold no more falls out by itself."""
    cart = _cart()
    if not cart:
        return ()
    with catalogue.opened(_file) as db:
        return tuple((product, cart[product.slug]) for product in catalogue.products(db) if product.slug in cart)


def _items_cents(lines: tuple[tuple[Product, int], ...]) -> int:
    return sum(product.price_cents * count for product, count in lines)
