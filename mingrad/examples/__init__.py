"""Programs to read and run: moons (what ``python -m mingrad`` trains), digits,
fsrs, microgpt, picture.

They use the public names only, and nothing in the package depends on them but ``__main__.py``.
"""
