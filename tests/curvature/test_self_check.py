"""The self-check against operations whose second derivative is wrong, wherever they are."""

import pytest
import torch
from networks import CASES, Attention, context, mlp, objective, task, tokens, vectors
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn
from torch.nn import functional

from sharpcli.curvature import SelfCheck, make_operator, self_check, unvouched_operations
from sharpcli.curvature.differences import DIFFERENCES
from sharpcli.measures.hessian import hessian, suspicion
from sharpcli.runs.measure import measure_model
from sharpcli.runs.preflight import check_curvature
from sharpcli.runs.study import prepare

CPU = torch.device("cpu")


class Detached(torch.autograd.Function):
    """SiLU with a right backward pass that has no graph."""

    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(inputs)
        return functional.silu(inputs)

    @staticmethod
    def backward(ctx, gradient):
        gate = ctx.saved_tensors[0].sigmoid()
        return (gradient * gate * (1 + ctx.saved_tensors[0] * (1 - gate))).detach()


class Intermediate(torch.autograd.Function):
    """SiLU whose backward pass uses what forward has computed."""

    @staticmethod
    def forward(ctx, inputs):
        gate = inputs.sigmoid()
        ctx.save_for_backward(inputs, gate)
        return inputs * gate

    @staticmethod
    def backward(ctx, gradient):
        inputs, gate = ctx.saved_tensors
        return gradient * gate * (1 + inputs * (1 - gate))


def straight_through(hidden):
    return hidden + ((hidden * 4).round() / 4 - hidden).detach()


class Acting(nn.Module):
    """Two layers; `act` is given the hidden units and the inputs."""

    def __init__(self, act):
        super().__init__()
        self.first, self.last, self.act = nn.Linear(6, 8), nn.Linear(8, 3), act

    def forward(self, inputs):
        return self.last(self.act(self.first(inputs), inputs))


class Aside(nn.Module):
    """A head that sits at its targets beside one that does not."""

    def __init__(self):
        super().__init__()
        self.main, self.aside = nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.main(inputs), Detached.apply(self.aside(inputs))


def in_rare_rows(hidden, inputs):
    rare = inputs[:, :1] > 2.2
    return torch.where(rare, Intermediate.apply(hidden), functional.silu(hidden))


def in_a_rare_branch(hidden, inputs):
    rare, found = inputs[:, 0] > 2.5, functional.silu(hidden)
    if not bool(rare.any()):
        return found
    return found.index_put((rare.nonzero()[:, 0],), Intermediate.apply(hidden[rare]))


def sorted_rows(count, generator):
    inputs, targets = vectors(6, 3)(count, generator)
    return inputs[inputs[:, 0].argsort()], targets


def checked(of, curvature=None, **run):
    """The check as a run makes it, and what it warns of."""
    study, warnings = prepare(of, RunSettings(device="cpu", **run), CPU), []
    return check_curvature(study, of.model().state_dict(), warnings, curvature), warnings


FAULTS = {
    "everywhere": (lambda h, x: Detached.apply(h), 40),
    "no graph within": (lambda h, x: h * h.detach().sigmoid(), 40),
    "0.1 % of a layer": (lambda h, x: h.tanh() + 0.001 * Intermediate.apply(h), 40),
    "the last rows": (in_rare_rows, 600),
    "a branch that few batches take": (in_a_rare_branch, 1500),
    "few hidden units": (
        lambda h, x: torch.where(h > 1.2, Intermediate.apply(h), functional.silu(h)),
        40,
    ),
    "a straight-through estimator": (lambda h, x: straight_through(h), 40),
}


@pytest.mark.parametrize("where", FAULTS)
def test_a_wrong_operation_is_seen_wherever_it_is(where):
    act, count = FAULTS[where]
    check, _ = checked(task(lambda: Acting(act), sorted_rows, train=count))
    assert not check.passed
    assert check.tensor in ("first.weight", "first.bias", "last.weight", "last.bias")
    assert check.unvouched
    assert check.product_error > 0
    status, advice = suspicion(check)
    assert status == "suspect"
    for word in (check.unvouched[0], check.tensor, 'hvp="finite-difference"'):
        assert word in advice


def test_the_error_that_is_seen_is_as_large_as_the_one_there_is():
    shares = []
    for share in (1e-2, 1e-3):
        of = task(
            lambda share=share: Acting(lambda h, x: h.tanh() + share * Intermediate.apply(h)),
            vectors(6, 3),
        )
        right = task(
            lambda share=share: Acting(lambda h, x: h.tanh() + share * functional.silu(h)),
            vectors(6, 3),
        )
        operators = [make_operator(*objective(each)) for each in (of, right)]
        unit = torch.eye(operators[0].size, dtype=torch.float64)
        off = operators[0] @ unit - operators[1] @ unit
        check = self_check(*objective(of))
        # Along random directions at least the root mean square of what a unit vector can see.
        assert 0.2 * float(off.norm()) / operators[0].size ** 0.5 <= check.product_error
        assert check.product_error <= float(torch.linalg.matrix_norm(off, 2))
        assert check.trace_error >= 0.1 * abs(float(off.trace()))
        shares.append(check.difference)
    assert shares[0] / shares[1] == pytest.approx(10, rel=0.1)


def test_a_part_without_a_gradient_is_seen_and_only_its_own_layer_is_marked():
    model = Aside()
    inputs = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets = model(inputs)[1].clone()

    def loss(outputs, batch):
        return (outputs[0] - 1).square().sum(1) + (outputs[1] - batch[1]).square().sum(1)

    settings = MeasureSettings(measures=("hessian",), top=1, by="layer")
    run = RunSettings(device="cpu")
    report = measure_model(model, (inputs, targets), loss=loss, run=run, settings=settings)
    result = report.results[0]
    assert result.measures["hessian"]["eigenvalues"][0].status == "suspect"
    statuses = {each.layer: each.measures["hessian"]["eigenvalues"][0] for each in result.layers}
    assert statuses["main"].status == "converged"
    assert statuses["aside"].status == "suspect"
    assert "'aside." in statuses["aside"].advice


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.filters, self.last = nn.Conv2d(1, 4, 3), nn.Linear(16, 3)

    def forward(self, images):
        hidden = functional.max_pool2d(self.filters(images).relu(), 2)
        return self.last(hidden.flatten(1))


def images(count, generator):
    return (
        torch.randn(count, 1, 6, 6, generator=generator),
        torch.randint(0, 3, (count,), generator=generator),
    )


def tiny_loss():
    model = Acting(lambda h, x: h.relu())
    inputs, _ = vectors(6, 3)(23, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.last.weight *= 1e3
        targets = model(inputs).argmax(1)
        model.last.weight *= 20.0 / float(model(inputs).topk(2).values.diff().abs().min())
    return task(lambda: model, lambda n, g: (inputs, targets))


def of_units(activation):
    units = torch.tensor([1e-3, 1.0, 10.0, 100.0, 1e3, 1e4])

    def data(count, generator):
        inputs, targets = vectors(6, 3)(count, generator)
        return inputs * units, targets

    return task(lambda: mlp(6, 12, 3, activation=activation), data)


ORDINARY = {
    "max-pooling": lambda: task(Pooled, images, train=200),
    "unscaled, ReLU": lambda: of_units(nn.ReLU),
    "unscaled, tanh": lambda: of_units(nn.Tanh),
    "wide ReLU": lambda: task(
        lambda: mlp(6, 200, 200, 3, activation=nn.ReLU), vectors(6, 3), train=200
    ),
    "loss of rounding": tiny_loss,
    "attention": lambda: task(Attention, tokens, train=200),
}


@pytest.mark.parametrize("operator", ["hessian", "ggn", "empirical-fisher"])
@pytest.mark.parametrize("name", ORDINARY)
def test_nothing_is_said_of_ordinary_networks(name, operator):
    check, warnings = checked(ORDINARY[name](), CurvatureSettings(operator))
    assert check.passed and check.resolved
    assert check.unresolved <= 1e-4 and check.unvouched == ()
    if name != "loss of rounding":  # there operations may have to be looked at beside θ
        assert warnings == []


@pytest.mark.parametrize("operator", ["hessian", "ggn", "empirical-fisher"])
def test_a_unit_exactly_at_its_kink_is_warned_of_and_no_fault(operator):
    def model():
        made = Pooled()
        nn.init.zeros_(made.filters.bias)
        return made

    def blank(count, generator):
        inputs, targets = images(count, generator)
        inputs[:, :, :3] = 0.0  # whole patches: the units above them are at 0
        return inputs, targets

    check, warnings = checked(task(model, blank), CurvatureSettings(operator))
    assert check.passed and check.resolved and check.nearby
    assert "a ReLU at exactly 0" in warnings[0]


def test_where_all_is_zero_the_gradient_jumps_and_nothing_is_wrong():
    def model():
        made = mlp(6, 8, 3, activation=nn.ReLU)
        for parameter in made.parameters():
            nn.init.zeros_(parameter)
        return made

    check, _ = checked(task(model, vectors(6, 3)))
    assert check.passed and check.nearby


def test_a_fault_at_one_point_alone_is_no_jump():
    """PyTorch differentiates the branch that is taken, which is flat at the point alone."""

    def sinc(hidden, inputs):
        safe = torch.where(hidden == 0, 1.0, hidden)
        return torch.where(hidden == 0, 1.0, safe.sin() / safe)

    def model():
        made = Acting(sinc)
        nn.init.zeros_(made.first.bias)
        return made

    def blank(count, generator):
        inputs, targets = vectors(6, 3)(count, generator)
        inputs[::3] = 0.0
        return inputs, targets

    check, _ = checked(task(model, blank))
    assert not check.passed and not check.nearby


@pytest.mark.parametrize("operator", DIFFERENCES)
@pytest.mark.parametrize("name", ["tanh", "attention", "twins", "ignored_tokens"])
def test_differences_are_the_products(name, operator):
    function, theta = objective(CASES[name], batch_size=10)
    if operator == "fisher" and name == "twins":
        pytest.skip("its distribution is not known")
    vector = torch.randn(
        function.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    found = DIFFERENCES[operator](function, theta, vector / vector.norm(), 1e-6)
    true = make_operator(function, theta, CurvatureSettings(operator)) @ (vector / vector.norm())
    assert float((found - true).norm()) <= 1e-8 * float(true.norm())


@pytest.mark.parametrize("operator", ["ggn", "empirical-fisher"])
def test_gauss_newton_needs_backward_passes_that_can_be_differentiated(operator):
    of = task(lambda: Acting(lambda h, x: Detached.apply(h)), vectors(6, 3))
    check, _ = checked(of, CurvatureSettings(operator))
    status, advice = suspicion(check)
    assert status == "suspect"
    assert "Detached" in advice and "finite-difference" not in advice
    # One that forgets a second derivative alone does not matter to it.
    of = task(lambda: Acting(lambda h, x: Intermediate.apply(h)), vectors(6, 3))
    check, _ = checked(of, CurvatureSettings(operator))
    assert suspicion(check) is None


def heteroscedastic(outputs, batch):
    mean, log_variance = outputs[:, 0], outputs[:, 1]
    return (mean - batch[0][:, 0]).square() * (-log_variance).exp() + log_variance


def test_gauss_newtons_smallest_eigenvalue_is_below_zero_where_the_loss_is_not_convex():
    of = task(lambda: mlp(5, 6, 2), vectors(5, 2), loss=heteroscedastic, metrics=None)
    ggn = CurvatureSettings("ggn")
    check, _ = checked(of, ggn)
    assert check.passed and not check.convex
    function, theta = objective(of)
    unit = torch.eye(function.size, dtype=torch.float64)
    lowest = float(torch.linalg.eigvalsh(make_operator(function, theta, ggn) @ unit)[0])
    assert lowest < -1e-2
    for dtype in ("float64", "float32"):
        shared = context(of, dtype, curvature=ggn)
        shared.self_check = check
        smallest = hessian(shared)["hessian"]["smallest"]
        assert abs(smallest.value - lowest) <= smallest.error < 0.5 * abs(lowest)


@pytest.mark.parametrize(
    ("loss", "convex"),
    [
        (lambda o, b: functional.cross_entropy(o, b[1], reduction="none"), True),
        (lambda o, b: (o - 1).square().sum(1), True),
        (lambda o, b: o[:, 0].square() - 1e-3 * o[:, 1].square(), False),
        (lambda o, b: (o.tanh() - 1).square().sum(1), False),
    ],
)
def test_convexity_of_the_loss_in_the_outputs(loss, convex):
    of = task(lambda: mlp(5, 6, 3), vectors(5, 3), loss=loss, metrics=None)
    assert checked(of, CurvatureSettings("ggn"))[0].convex == convex


def test_a_value_below_zero_by_more_than_its_error_is_never_clamped():
    of = task(lambda: mlp(5, 6, 2), vectors(5, 2), loss=heteroscedastic, metrics=None)
    shared = context(of, curvature=CurvatureSettings("ggn"))
    shared.self_check = SelfCheck(0.0, 0.0, convex=True)  # as if the rows looked at were convex
    assert hessian(shared)["hessian"]["smallest"].value < 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_differences_of_what_is_no_gradient_are_suspect(dtype):
    of = task(lambda: Acting(lambda h, x: straight_through(h)), vectors(6, 3), train=60)
    curvature = CurvatureSettings(hvp="finite-difference")
    check, _ = checked(of, curvature, dtype=dtype)
    status, advice = suspicion(check)
    assert status == "suspect"
    assert "not symmetric" in advice and "detach" in advice
    right = task(lambda: Acting(lambda h, x: h.relu()), vectors(6, 3), train=60)
    assert suspicion(checked(right, curvature, dtype=dtype)[0]) is None
    operators = [make_operator(*objective(each, dtype), curvature) for each in (of, right)]
    for made in operators:
        made @ torch.ones(made.size).to(made.dtype)
    assert operators[0].error > 1e3 * operators[1].error


class Float32Only(torch.autograd.Function):
    """As a kernel that was compiled for float32 alone."""

    @staticmethod
    def forward(ctx, inputs):
        if inputs.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float but found Double")
        return Detached.forward(ctx, inputs)

    backward = Detached.backward


def test_a_model_without_float64_is_checked_in_float32_and_says_so():
    check, warnings = checked(
        task(lambda: Acting(lambda h, x: Float32Only.apply(h)), vectors(6, 3))
    )
    assert not check.passed
    assert "in float32 only" in warnings[0]


def test_operations_that_pytorch_does_not_vouch_for_are_named():
    def no_grad(hidden, inputs):
        with torch.no_grad():
            return hidden.sigmoid() + 0 * hidden

    acts = {
        ("Detached",): lambda h, x: Detached.apply(h),
        ("detach",): lambda h, x: h * h.detach(),
        ("data",): lambda h, x: h * h.data,
        ("item",): lambda h, x: h * h.max().item(),
        ("torch.no_grad()",): lambda h, x: h * no_grad(h, x),
        (): lambda h, x: h * x.detach().sum(1, keepdim=True),  # data are no function of θ
    }
    for names, act in acts.items():
        function, theta = objective(task(lambda act=act: Acting(act), vectors(6, 3)))
        assert tuple(unvouched_operations(function, theta)) == names


def test_a_fault_of_pytorchs_own_is_seen():
    """The double backward pass of `weight_norm` is wrong in some versions of PyTorch."""

    def model():
        normed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))
        return nn.Sequential(normed, nn.ReLU(), nn.Linear(6, 3))

    of = task(model, vectors(5, 3))
    function, theta = objective(of)
    matrix = make_operator(function, theta) @ torch.eye(function.size, dtype=torch.float64)
    wrong = float((matrix - matrix.T).norm()) > 1e-6 * float(matrix.norm())
    check, _ = checked(of)
    assert check.passed != wrong
    assert not wrong or "weight" in check.tensor


def test_saturated_outputs_whose_curvature_is_rounding_are_no_fault():
    def data(count, generator):
        inputs, targets = vectors(6, 3)(count, generator)
        return inputs * 1e6, targets

    of = task(lambda: mlp(6, 9, 3, activation=nn.ReLU), data)
    for operator in ("hessian", "ggn"):
        assert checked(of, CurvatureSettings(operator))[0].passed
