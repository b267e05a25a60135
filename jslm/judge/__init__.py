"""verb: which of two models people like better, blind and side by side on a page."""
