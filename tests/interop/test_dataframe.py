"""The rows of a result as a pandas data frame."""

import pytest
from sharpcli.documents.scalars import Scalar

from sharpcli.documents.results import CheckpointResult, Failure, Report
from sharpcli.documents.statuses import Outcome

pandas = pytest.importorskip("pandas")


def test_a_row_for_each_checkpoint_with_numbers_as_floats():
    def result(path, value):
        numbers = {"hessian": {"eigenvalues": [Scalar(value, 0.5)], "products": 3}}
        return CheckpointResult({"path": path, "metadata": {"lr": 0.1}}, measures=numbers)

    failed = CheckpointResult({"path": "c.pt"}, Outcome.FAILED, error=Failure("no", None))
    report = Report("measure", {}, {}, {}, [result("a.pt", 2.0), result("b.pt", 4.0), failed])
    frame = report.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["checkpoint"].tolist() == ["a.pt", "b.pt", "c.pt"]
    assert frame["hessian.eigenvalues[0]"].dtype == float
    assert frame["hessian.eigenvalues[0]"].mean() == 3
    assert frame["metadata.lr"].tolist()[:2] == [0.1, 0.1]
    assert frame["message"].tolist()[2] == "no"
