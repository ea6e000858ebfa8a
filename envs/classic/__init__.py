"""Small two-dimensional environments with a fast picture of their own: cart-pole and mountain car."""
