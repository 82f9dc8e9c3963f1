"""The suite's short form, for installs: what it holds by hand of the core and of every family.

`python tests/short.py` prints its files, as `make test-oldest` runs them.
"""

SHORT = (
    *("tests/core/test_registry.py", "tests/core/test_core.py", "tests/core/test_noise.py"),
    *("tests/ops/pointwise", "tests/ops/bernoulli", "tests/ops/categorical", "tests/ops/subset"),
)

if __name__ == "__main__":
    print(*SHORT)
