"""The discriminant is scikit-learn's, whatever the numbers of features and images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from auditkit.detection import fit_discriminant


def groups(n, m, features, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator, dtype=torch.float64)
    usual = torch.randn(n, features, generator=generator, dtype=torch.float64) @ mixing + 5
    other = torch.randn(m, features, generator=generator, dtype=torch.float64) @ mixing * 1.5 + 6
    return usual, other


@pytest.mark.parametrize(("n", "m", "features"), [(50, 40, 3), (20, 30, 60), (5, 4, 200)])
@pytest.mark.parametrize("shrinkage", [0.1, 0.5, 0.9])
def test_the_score_is_that_of_scikit_learn(n, m, features, shrinkage):
    usual, other = groups(n, m, features)
    found = fit_discriminant(usual, other, shrinkage)
    scaled = ((torch.cat([usual, other]) - usual.mean(0)) / usual.std(0)).numpy()
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=[0.5, 0.5])
    oracle.fit(scaled, np.repeat([0, 1], [n, m]))
    np.testing.assert_allclose(found.weights.numpy(), oracle.coef_[0], rtol=1e-6, atol=1e-9)
    difference = found.score(torch.cat([usual, other])).numpy() - oracle.decision_function(scaled)
    np.testing.assert_allclose(difference, difference[0], atol=1e-8)


def test_features_that_never_change_have_no_weight():
    usual, other = groups(20, 20, 4)
    usual[:, 1] = 3.0
    other[:, 1] = 1e6
    found = fit_discriminant(usual, other)
    assert found.weights[1] == 0
    assert torch.equal(found.weights[[0, 2, 3]], fit_discriminant(usual[:, [0, 2, 3]], other[:, [0, 2, 3]]).weights)


def test_a_row_is_scored_alone_as_among_others():
    usual, other = groups(30, 30, 37)
    found = fit_discriminant(usual, other)
    alone = torch.cat([found.score(row.unsqueeze(0)) for row in usual])
    assert torch.equal(alone, found.score(usual))


def test_groups_that_are_too_small_are_refused():
    usual, other = groups(20, 1, 4)
    with pytest.raises(ValueError, match="wanted two images of each group at least; got 20 and 1"):
        fit_discriminant(usual, other)
    with pytest.raises(ValueError, match="no feature differs"):
        fit_discriminant(torch.ones(5, 3), torch.zeros(5, 3))
