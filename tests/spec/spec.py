"""What the specifications share: a comparison that says which rule was broken, and seeded tensors.

A test in this folder is one fact about one equation. Its name is the fact, its docstring says it in
a sentence, and `close` says, where it does not hold, which rule of the equation is broken and where
to look. Nothing here knows an answer; expected values come from expected.py.
"""
import doctest

import torch
import torch.nn.functional as F


def show(x):
    """A tensor as a short line: a few numbers, or its shape where there are many."""
    x = x.detach()
    if x.numel() <= 12:
        return str([round(float(v), 4) for v in x.flatten()])
    return f"tensor of shape {tuple(x.shape)}, mean {float(x.double().mean()):.4f}"


def close(got, want, why, tol=1e-6):
    """Fail with `why` unless two tensors (or numbers) agree up to `tol`.

    Of numbers beyond 1, `tol` is a part of the largest of them.

    why: the rule that is broken and where to look, in words for the one who wrote `got`.
    """
    __tracebackhide__ = True
    got = torch.as_tensor(got)
    want = torch.as_tensor(want)
    if got.shape != want.shape:
        raise AssertionError(f"{why}\n  shape of yours: {tuple(got.shape)}, "
                             f"expected: {tuple(want.shape)}")
    got = got.detach().double()
    want = want.detach().double()
    if got.numel() == 0:
        return
    if not bool(got.isfinite().all()):
        raise AssertionError(f"{why}\n  yours holds numbers that are not finite: {show(got)}")
    away = (got - want).abs()
    if not float(away.max()) <= tol * max(1.0, float(want.abs().max())):     # NaN is never near
        raise AssertionError(f"{why}\n  yours: {show(got)}\n  expected: {show(want)}\n"
                             f"  largest difference: {float(away.max()):.3g}")


def holds(fact, why):
    """Fail with `why` unless `fact` is true."""
    __tracebackhide__ = True
    if not bool(fact):
        raise AssertionError(why)


def randn(seed, *shape):
    """Standard normal float64 tensor that depends on `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rand(seed, *shape):
    """Uniform float64 tensor in [0, 1) that depends on `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def f64(*rows):
    """A float64 tensor from numbers or lists of numbers."""
    return torch.tensor(rows, dtype=torch.float64)


def fill(module, state):
    """Put the tensors of `state` into a module's parameters of the same names; give the module."""
    own = dict(module.named_parameters())
    for name, value in state.items():
        if name not in own:
            raise AssertionError(f"{type(module).__name__} has no parameter {name}. Its layers are "
                                 "given: write the arithmetic between them, keep their names.")
        own[name].data = value.clone()
    return module


STEP = 1e-6                                       # small beside inputs of about 1


def gradients_are_right(function, *inputs, why):
    """Fail with `why` unless autograd's slopes equal those of small steps (float64 inputs).

    All inputs are moved at once along a random direction, forwards and backwards by STEP; what the
    result (its numbers added with random weights) changes by is compared with what the gradients
    foretell. Three directions: a wrong gradient is right along one of them only by chance.
    """
    for seed in range(3):
        # Seeds that no input has: along an input itself a cosine does not change.
        directions = [randn(1000 + 10 * seed + i, *x.shape) for i, x in enumerate(inputs)]
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        result = function(*[leaf.clone() for leaf in leaves])
        holds(result.requires_grad, why)

        weights = randn(seed, *result.shape)
        gradients = torch.autograd.grad((result * weights).sum(), leaves, allow_unused=True)
        foretold = 0.0
        for gradient, direction in zip(gradients, directions):
            if gradient is not None:
                foretold += (gradient * direction).sum()

        with torch.no_grad():
            ahead = function(*[x + STEP * way for x, way in zip(inputs, directions)])
            behind = function(*[x - STEP * way for x, way in zip(inputs, directions)])
        change = ((ahead - behind) * weights).sum() / (2 * STEP)
        close(foretold, change, why, tol=1e-5)


class Runner(doctest.DocTestRunner):
    """A doctest's runner to whom work that is still to be done is no wrong number."""

    def report_unexpected_exception(self, out, test, example, exc_info):
        if exc_info[0] is NotImplementedError:
            raise exc_info[1]
        super().report_unexpected_exception(out, test, example, exc_info)


def worked_example_holds(thing, module):
    """Run the numbers that stand in a docstring, and fail with what came out otherwise."""
    __tracebackhide__ = True
    finder = doctest.DocTestFinder(recurse=False)
    runner = Runner(verbose=False, optionflags=doctest.REPORT_NDIFF)
    said = []
    tried = 0
    names = {**vars(module), "torch": torch, "F": F}
    for test in finder.find(thing, name=thing.__qualname__, globs=names):
        runner.run(test, out=said.append)
        tried += len(test.examples)
    holds(tried > 0, f"{thing.__qualname__} has lost the worked example of its docstring.")
    lines = [line for line in "".join(said).splitlines() if not line.startswith(("File ", "****"))]
    numbers = "\n".join(lines)
    holds(runner.failures == 0,
          f"The worked example in the docstring of {thing.__qualname__} "
          f"comes out otherwise. It is small enough to redo by hand.\n{numbers}")
