"""Which methods a run has: from options to a list of `Method`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast, get_args

from benchmarks.samples.method import Kind, Method, Pool
from gsr_engine.errors import InvalidRequest, check_choice, check_int
from gsr_engine.params import LAYOUTS, MAX_CANDIDATES, Layout, View

KINDS: tuple[Kind, ...] = get_args(Kind)
REPLACED: tuple[Pool, ...] = tuple(one for one in get_args(Pool) if one != "own")
FUSION = "agglm"
"""The built-in prompts that merge without training: they begin from the attempts, and state an
answer form."""
DEFAULT_ORDERS = 3
DEFAULT_POOLS: tuple[Pool, ...] = ("foreign", "truncated", "corrupted")


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOptions:
    """Which methods are measured, besides those that need no generation of their own.

    Attributes:
        k: Candidate counts, comma separated; the largest is drawn.
        methods: Comma separated, of greedy, selfref, fusion (merged by a plain prompt), repeated
            (one candidate k times), rounds, orders, views (whole candidates), mixed (pools).
        layouts: Comma separated. Default: what the model claims.
        force_layout: Measure a layout that the model was not trained for, too.
        temperature: Of the candidates, and of the refinements in rounds.
        view: What a refinement is shown of a candidate: the text after its thinking, or all.
        widths: Refinements in each of the rounds before the last, comma separated. Default: the
            main k. They read the first candidates of the main k.
        subset: Solutions that a refinement in rounds reads. Default: half of the main k.
        orders: Other orders of the same candidates, at most the main k less one. Default: 3.
        pools: Whose candidates take which share of the main k: weak, foreign, truncated or
            corrupted, e.g. foreign:.25,.5;weak:.5. Default: the last three, half each.

    Raises:
        InvalidRequest: an option is out of range, or is for a method that is not named.
    """

    k: str = "1,2,4,8"
    methods: str = "greedy,selfref"
    layouts: str | None = None
    force_layout: bool = False
    temperature: float = 1.0
    view: View = "summary"
    widths: str | None = None
    subset: int | None = None
    orders: int | None = None
    pools: str | None = None

    def __post_init__(self) -> None:
        """Raise InvalidRequest for values that cannot be."""
        for k in self.ks:
            check_int("k", k, 1, MAX_CANDIDATES)
        for kind in self.kinds:
            check_choice("methods", kind, KINDS)
        for layout in self.chosen_layouts(LAYOUTS):
            check_choice("layout", layout, LAYOUTS)
        self._check_uses()
        self.chosen_methods(LAYOUTS)

    def _check_uses(self) -> None:
        for name, kind in (
            ("widths", "rounds"),
            ("subset", "rounds"),
            ("orders", "orders"),
            ("pools", "mixed"),
        ):
            if getattr(self, name) is not None and kind not in self.kinds:
                raise InvalidRequest(name, f"is for the method {kind}, which --methods lacks")
        if "orders" in self.kinds and "selfref" not in self.kinds:
            raise InvalidRequest("methods", "orders are other orders than selfref's: name it, too")
        if "views" in self.kinds and self.view == "full":
            raise InvalidRequest("methods", "views shows whole candidates, as --view full does")

    @property
    def ks(self) -> tuple[int, ...]:
        """The candidate counts, ascending."""
        return _counts("k", self.k, "candidate counts")

    @property
    def headline(self) -> int:
        """The main k: of the cost run, of main rows, and of all methods but plain selfref."""
        return 4 if 4 in self.ks else self.ks[-1]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The methods that are asked for, by kind."""
        return cast("tuple[Kind, ...]", tuple(dict.fromkeys(self.methods.split(","))))

    @property
    def pool_shares(self) -> list[tuple[Pool, float]]:
        """Each pool with each of its shares."""
        if self.pools is None:
            half = max(1, self.headline // 2) / self.headline
            return [(pool, half) for pool in DEFAULT_POOLS]
        return _pool_shares(self.pools, self.headline)

    def chosen_layouts(self, claimed: Sequence[Layout]) -> tuple[Layout, ...]:
        """The layouts to measure of a model that claims some."""
        names = claimed if self.layouts is None else self.layouts.split(",")
        return cast("tuple[Layout, ...]", tuple(dict.fromkeys(names)))

    def chosen_methods(self, claimed: Sequence[Layout]) -> list[Method]:
        """The methods to measure of a model that claims some layouts, in the order of `KINDS`."""
        layouts = self.chosen_layouts(claimed)
        return [
            one if kind == "views" else replace(one, view=self.view)
            for kind in KINDS
            if kind in self.kinds
            for one in _MAKERS[kind](self, layouts)
        ]


def selfref(layout: Layout, k: int, temperature: float = 0.0) -> Method:
    """A refinement of the first k candidates."""
    name = f"selfref {layout}@{k}" + (f" T={temperature:g}" if temperature else "")
    return Method(name=name, kind="selfref", layout=layout, k=k, temperature=temperature)


def _greedy(_: MethodOptions, __: Sequence[Layout]) -> Iterator[Method]:
    yield Method(name="greedy", kind="greedy")


def _selfref(options: MethodOptions, layouts: Sequence[Layout]) -> Iterator[Method]:
    for layout in layouts:
        for k in options.ks:
            yield selfref(layout, k)
        yield selfref(layout, options.headline, temperature=1.0)


def _fusion(options: MethodOptions, _: Sequence[Layout]) -> Iterator[Method]:
    k = options.headline
    yield Method(name=f"fusion@{k}", kind="fusion", layout="linear", k=k, template=FUSION)


def _repeated(options: MethodOptions, layouts: Sequence[Layout]) -> Iterator[Method]:
    k = options.headline
    for layout in layouts:
        yield Method(name=f"repeated {layout}@{k}", kind="repeated", layout=layout, k=k)


def _rounds(options: MethodOptions, layouts: Sequence[Layout]) -> Iterator[Method]:
    k = options.headline
    text = str(k) if options.widths is None else options.widths
    widths = _counts("widths", text, "refinements of rounds", ordered=False)
    subset = max(1, k // 2) if options.subset is None else options.subset
    check_int("subset", subset, 1, max(k, *widths))
    for layout in layouts:
        yield Method(
            name=f"rounds {layout} {'x'.join(map(str, (k, *widths, 1)))}",
            kind="rounds",
            layout=layout,
            k=k,
            temperature=options.temperature,
            widths=widths,
            subset=subset,
        )


def _orders(options: MethodOptions, layouts: Sequence[Layout]) -> Iterator[Method]:
    k = options.headline
    if "linear" not in layouts or k < 2:
        raise InvalidRequest("methods", "orders needs the linear layout, and two candidates")
    count = min(DEFAULT_ORDERS, k - 1) if options.orders is None else options.orders
    check_int("orders", count, 1, k - 1)
    for order in range(1, count + 1):
        yield Method(
            name=f"orders linear@{k} #{order}", kind="orders", layout="linear", k=k, order=order
        )


def _views(options: MethodOptions, layouts: Sequence[Layout]) -> Iterator[Method]:
    k = options.headline
    for layout in layouts:
        yield Method(name=f"views {layout}@{k}", kind="views", layout=layout, k=k, view="full")


def _mixed(options: MethodOptions, layouts: Sequence[Layout]) -> Iterator[Method]:
    k = options.headline
    digits = 2 if k < 100 else 3  # as many as tell any two shares apart
    for layout in layouts:
        for pool, share in options.pool_shares:
            yield Method(
                name=f"mixed {layout}@{k} {pool} {f'{share:.{digits}f}'.removeprefix('0')}",
                kind="mixed",
                layout=layout,
                k=k,
                pool=pool,
                share=share,
            )


_MAKERS: dict[Kind, Callable[[MethodOptions, Sequence[Layout]], Iterator[Method]]] = {
    "greedy": _greedy,
    "selfref": _selfref,
    "fusion": _fusion,
    "repeated": _repeated,
    "rounds": _rounds,
    "orders": _orders,
    "views": _views,
    "mixed": _mixed,
}


def _counts(name: str, text: str, what: str, *, ordered: bool = True) -> tuple[int, ...]:
    """Numbers of a comma separated option; `ordered` ones ascend, each once."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text, re.ASCII):
        raise InvalidRequest(name, f"must be {what}, comma separated, got {text!r}")
    counts = [check_int(name, int(part), 1, MAX_CANDIDATES) for part in text.split(",")]
    return tuple(sorted(set(counts)) if ordered else counts)


def _pool_shares(text: str, k: int) -> list[tuple[Pool, float]]:
    shares: dict[tuple[Pool, float], None] = {}
    for part in text.split(";"):
        found = re.fullmatch(r"(\w+):([\d.]+(?:,[\d.]+)*)", part.strip(), re.ASCII)
        if not found or found[1] not in REPLACED:
            raise InvalidRequest(
                "pools",
                f"must be POOL:SHARE,...;... with {', '.join(REPLACED)}, got {part.strip()!r}",
            )
        for number in found[2].split(","):
            shares[cast("Pool", found[1]), _share(number, k)] = None
    return list(shares)


def _share(number: str, k: int) -> float:
    try:
        share = float(number)
    except ValueError:
        raise InvalidRequest("pools", f"must have numbers as shares, got {number!r}") from None
    if not 0 < share <= 1 or round(share * k, 6) % 1:
        raise InvalidRequest(
            "pools", f"a share must be of whole candidates of {k}, at least one, got {number}"
        )
    return round(share * k) / k  # however many digits it was written with
