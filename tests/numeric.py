"""How tests compare arrays."""

import numpy as np


def assert_close(actual, expected, rtol: float = 2e-5) -> None:
    """Largest difference, relative to the largest expected value.

    2e-5 is what the golden data's README asks of float32 features and logits; measured differences are about 1e-6.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{actual.shape} != {expected.shape}"
    difference = np.abs(actual - expected).max() / np.abs(expected).max()
    assert difference <= rtol, f"largest relative difference {difference:.2e} > {rtol:.0e}"
