"""The suite's short form, for installs: what it holds by hand of the core and of every room.

`python tests/short.py` prints its files, as `make test-oldest` runs them.
"""

SHORT = ("registry", "core", "noise", "pointwise", "bernoulli", "categorical", "subset")


def files(names: tuple[str, ...]) -> list[str]:
    return [f"tests/test_{name}.py" for name in names]


if __name__ == "__main__":
    print(*files(SHORT))
