"""What tokens cost, exactly."""

from decimal import Context, Decimal, InvalidOperation

# More digits than a count times a price of 32 marks has.
_EXACT = Context(prec=100)
_HIGHEST, _FINEST = Decimal(10) ** 15, -32


def cost(tokens: tuple[int, int, int], prices: tuple[str, str, str]) -> Decimal:
    """The price of input, output and cached tokens, of which the last are part of the input.

    An empty price is nothing, but for cached tokens: those cost what other input does. What is no price is nothing.
    """
    taken, given, cached = tokens
    input_price, output_price = _price(prices[0]), _price(prices[1])
    cached_price = _price(prices[2]) if prices[2] else input_price
    known = min(cached, taken)
    parts = ((taken - known, input_price), (known, cached_price), (given, output_price))
    total = Decimal(0)
    for count, price in parts:
        total = _EXACT.add(total, _EXACT.multiply(Decimal(count), price))
    return total


def _price(text: str) -> Decimal:
    try:
        price = Decimal(text or 0)
    except InvalidOperation:
        return Decimal(0)
    exponent = price.as_tuple().exponent
    sound = isinstance(exponent, int) and exponent >= _FINEST and 0 <= price < _HIGHEST
    return price if sound else Decimal(0)
