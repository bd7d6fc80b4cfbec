"""One suite that every runner passes, and what shakes races out of them."""
