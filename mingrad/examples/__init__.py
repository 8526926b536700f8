"""Programs to read and run: moons (what ``python -m mingrad`` trains), digits,
fsrs, microgpt, picture; and the folder of lessons, which begins before all of them.

They use the public names only, and nothing in the package depends on them but ``__main__.py``.
"""
