"""A broker and a store of PyPI packages, to try things out without servers."""
