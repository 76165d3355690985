"""Events: written with the rows they tell of, published in order, handled once."""
