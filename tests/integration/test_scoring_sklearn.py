"""Models trained with scikit-learn on real data, scored by the protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from crypto.adapters.ckks import SealScheme
from crypto.adapters.sklearn_model import import_model
from crypto.errors import Malformed
from crypto.scoring.hiding import ERROR_UNITS
from crypto.scoring.model import plain_scores
from crypto.scoring.shape import Feature, ModelFamily
from tests.fakes.scoring import PlainScheme, Scoring

datasets = pytest.importorskip("sklearn.datasets")

from sklearn.linear_model import (  # noqa: E402
    Lasso,
    LinearRegression,
    LogisticRegression,
    Ridge,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import (  # noqa: E402
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeRegressor  # noqa: E402

Float64Array = npt.NDArray[np.float64]

DIABETES, PROGRESSION = datasets.load_diabetes(return_X_y=True, scaled=False)
CANCER, BENIGN = datasets.load_breast_cancer(return_X_y=True)


def bounds(rows: Float64Array) -> list[Feature]:
    """What a holder would state: the range of its data, to six places."""
    low, high = np.floor(rows.min(0) * 1e6), np.ceil(rows.max(0) * 1e6)
    return [Feature(f"x{i}", int(low[i]), int(high[i]), 6) for i in range(rows.shape[1])]


def imported(estimator: Any, rows: Float64Array, decimals: int = 2) -> Any:
    return import_model(estimator, features=bounds(rows), outputs=["score"], decimals=decimals)


REGRESSIONS: dict[str, Callable[[], Any]] = {
    "linear": LinearRegression,
    "lasso": lambda: Lasso(alpha=0.5),
    "scaled ridge": lambda: make_pipeline(StandardScaler(), Ridge()),
    "twice scaled": lambda: make_pipeline(MinMaxScaler((-2, 3)), MaxAbsScaler(), Ridge()),
    "squares": lambda: make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge(10.0)),
    "products only": lambda: make_pipeline(
        MinMaxScaler(), PolynomialFeatures(2, interaction_only=True, include_bias=False), Ridge()
    ),
    "perceptron": lambda: make_pipeline(
        StandardScaler(),
        MLPRegressor(hidden_layer_sizes=(5, 4), activation="identity", max_iter=20, random_state=1),
    ),
}


@pytest.mark.parametrize("make", REGRESSIONS.values(), ids=REGRESSIONS)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_regression_scores_what_scikit_learn_predicts(make: Callable[[], Any]) -> None:
    estimator = make().fit(DIABETES, PROGRESSION)
    model = imported(estimator, DIABETES)
    predicted = estimator.predict(DIABETES)
    assert np.abs(plain_scores(model, DIABETES).ravel() - predicted).max() < 1e-6
    scoring = Scoring(model, DIABETES, rows=len(DIABETES), scheme=PlainScheme())
    assert np.abs(scoring.scores.ravel() - 100 * predicted).max() < ERROR_UNITS


def test_several_outputs_of_one_regression_are_several_scores() -> None:
    both = np.stack([PROGRESSION, -3 * PROGRESSION], axis=1)
    estimator = LinearRegression().fit(DIABETES, both)
    model = import_model(estimator, features=bounds(DIABETES), outputs=["a", "b"], decimals=1)
    assert np.allclose(plain_scores(model, DIABETES), estimator.predict(DIABETES), atol=1e-6)


@pytest.mark.parametrize(
    "last",
    [
        LogisticRegression(C=0.01),
        MLPClassifier(hidden_layer_sizes=(3,), activation="identity", max_iter=10, random_state=1),
    ],
    ids=["logistic", "perceptron"],
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_classifier_scores_its_probability_within_the_stated_error(last: Any) -> None:
    estimator = make_pipeline(StandardScaler(), last).fit(CANCER, BENIGN)
    model = imported(estimator, CANCER, decimals=3)
    assert model.shape.family is ModelFamily.LOGISTIC
    probability = estimator.predict_proba(CANCER)[:, 1]
    gap = np.abs(plain_scores(model, CANCER).ravel() - probability).max()
    assert gap <= float(model.shape.stated_error)


def test_the_breast_cancer_classifier_scores_under_encryption() -> None:
    estimator = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(CANCER, BENIGN)
    model = imported(estimator, CANCER, decimals=3)
    scoring = Scoring(model, CANCER, rows=len(CANCER), scheme=SealScheme())
    assert scoring.errors == {}
    scores = scoring.scores.ravel()
    wanted = plain_scores(model, CANCER).ravel() * 1000
    assert np.abs(scores - wanted).max() < ERROR_UNITS
    probability = estimator.predict_proba(CANCER)[:, 1]
    most = float(model.shape.stated_error) + ERROR_UNITS / 1000
    assert np.abs(scores / 1000 - probability).max() < most
    decided = np.abs(probability - 0.5) > most
    assert ((scores > 500) == (probability > 0.5))[decided].all() and decided.mean() > 0.9


@pytest.mark.parametrize("name", ["scaled ridge", "squares"])
def test_the_diabetes_regressions_score_under_encryption(name: str) -> None:
    estimator = REGRESSIONS[name]().fit(DIABETES, PROGRESSION)
    scoring = Scoring(
        imported(estimator, DIABETES), DIABETES, rows=len(DIABETES), scheme=SealScheme()
    )
    assert scoring.errors == {}
    assert np.abs(scoring.scores.ravel() - 100 * estimator.predict(DIABETES)).max() < ERROR_UNITS


@pytest.mark.parametrize(
    ("estimator", "word"),
    [
        (DecisionTreeRegressor(max_depth=2), "DecisionTreeRegressor"),
        (MLPRegressor(hidden_layer_sizes=(3,), activation="relu", max_iter=5), "relu units"),
        (
            MLPRegressor(
                loss="poisson", hidden_layer_sizes=(3,), activation="identity", max_iter=5
            ),
            "exp outputs",
        ),
        (make_pipeline(RobustScaler(), Ridge()), "RobustScaler"),
        (make_pipeline(MinMaxScaler(clip=True), Ridge()), "clips"),
        (make_pipeline(PolynomialFeatures(3), Ridge()), "degree-2"),
        (make_pipeline(PolynomialFeatures(2), DecisionTreeRegressor()), "degree-2"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_what_cannot_be_computed_under_encryption_is_refused_by_name(
    estimator: Any, word: str
) -> None:
    with pytest.raises(Malformed, match=word):
        imported(estimator.fit(DIABETES[:60], PROGRESSION[:60]), DIABETES)


def test_more_than_two_classes_are_refused() -> None:
    rows, kinds = datasets.load_iris(return_X_y=True)
    with pytest.raises(Malformed, match="more than two classes"):
        imported(LogisticRegression(max_iter=500).fit(rows, kinds), rows)


def test_an_estimator_that_is_not_fitted_or_of_other_features_is_refused() -> None:
    with pytest.raises(Malformed, match="not fitted"):
        imported(Ridge(), DIABETES)
    with pytest.raises(Malformed, match="fitted with 10"):
        imported(Ridge().fit(DIABETES, PROGRESSION), DIABETES[:, :9])


def test_features_in_another_order_than_fitted_are_refused() -> None:
    estimator = Ridge().fit(DIABETES, PROGRESSION)
    estimator.feature_names_in_ = np.array([f"x{i}" for i in range(10)], dtype=object)
    imported(estimator, DIABETES)
    swapped = bounds(DIABETES)
    swapped[0], swapped[1] = swapped[1], swapped[0]
    with pytest.raises(Malformed, match="ordered"):
        import_model(estimator, features=swapped, outputs=["score"], decimals=2)


def test_a_subclass_may_predict_otherwise_and_is_refused() -> None:
    class Doubled(Ridge):  # type: ignore[misc]
        def predict(self, rows: Float64Array) -> Float64Array:
            found: Float64Array = 2 * super().predict(rows)
            return found

    with pytest.raises(Malformed, match="Doubled"):
        imported(Doubled().fit(DIABETES, PROGRESSION), DIABETES)


def test_bounds_too_wide_for_a_classifier_s_weights_are_refused_with_the_way_out() -> None:
    estimator = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, max_iter=5000))
    wide = [Feature(f"x{i}", -(10**6), 10**6, 0) for i in range(30)]
    with pytest.raises(Malformed, match="reach"):
        import_model(estimator.fit(CANCER, BENIGN), features=wide, outputs=["p"], decimals=3)
