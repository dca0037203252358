"""Philox4x32-10 from the paper's text."""

MASK = (1 << 32) - 1


def restated(counter, key):
    """Salmon et al. 2011, section 3.3, on Python's own whole numbers."""
    (a, b, c, d), (left, right) = counter, key
    for _ in range(10):
        one, two = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (two >> 32) ^ b ^ left, two & MASK, (one >> 32) ^ d ^ right, one & MASK
        left, right = (left + 0x9E3779B9) & MASK, (right + 0xBB67AE85) & MASK
    return [a, b, c, d]
