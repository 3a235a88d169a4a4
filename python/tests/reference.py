"""Densities in float64 from their definition, and how far float32 may be from them."""

import numpy as np

UNIT = 2.0**-24  # of float32


def log_density(density, features):
    """log q(z) and its bound, of features `[P, D]` that float16 holds.

    Per class the engine has `y = W (z - mu)`, W = L^-1 in float32: each y_i is a sum of at most D products, so
    `|dy_i| <= (D + 3) u sum_k |W_ik| |z_k - mu_k|` (D additions, and one rounding each of W, mu and the difference; Higham
    2002, (3.5), to first order), the rounding of mu itself u |mu_k| taking the place of the difference's where it is larger. The
    squares add up as `|d (y.y)| <= 2 |y| |dy| + |dy|^2 + (D + 3) u y.y`. A log-sum-exp moves by at most the largest of its terms'
    errors; each term also rounds its constant and its sum, 3 u (|constant| + y.y / 2 + |result|).
    """
    z = features.astype(np.float16).astype(np.float64)
    terms, bounds = [], []
    for values in density.parameters().values():
        lower = np.linalg.cholesky(values["covariance"])
        whitening = np.linalg.inv(lower)
        x = z - values["mean"]
        y = x @ whitening.T
        d = z.shape[1]
        squares = (y**2).sum(1)
        peak = -0.5 * (d * np.log(2 * np.pi) + 2 * np.log(np.diag(lower)).sum())
        constant = peak + values["log_prior"]
        terms.append(constant - 0.5 * squares)
        dy = UNIT * ((d + 3) * np.abs(x) + np.abs(values["mean"])) @ np.abs(whitening).T
        moved = 2 * np.sqrt(squares) * np.sqrt((dy**2).sum(1)) + (dy**2).sum(1) + (d + 3) * UNIT * squares
        bounds.append(0.5 * moved + 3 * UNIT * (abs(constant) + 0.5 * squares))
    terms = np.array(terms)
    top = terms.max(0)
    exact = top + np.log(np.exp(terms - top).sum(0))
    # Classes that cannot matter may be left out: C e^-20 at most (src/density/evaluate.rs).
    return exact, np.array(bounds).max(0) + 3 * UNIT * np.abs(exact) + len(terms) * np.exp(-20.0)
