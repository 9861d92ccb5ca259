"""Plan search: as few float ops as an accuracy budget allows, and the cheapest treatments that keep it.

Damage is measured at the model's own output, on samples that nothing was fitted to. Damages of different ops add up
nearly enough to choose by, since rounding errors of different ops are unrelated; what counts in the end is measured.

1. Every op as good as the usual recipes make it. If that misses the budget: costlier recipes (more split columns, a
   float side branch) where they help.
2. If it is still missed: ops go to float, the most damaging first, no more of them than needed.
3. What is left of the budget is spent on cheaper recipes, the least damaging first.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import onnx_ir as ir

from calib8.errors import AccuracyMissed, ConfigError
from calib8.graph.site import Site, sites
from calib8.progress import Progress
from calib8.quantization.case import Case
from calib8.quantization.design import Recipe
from calib8.quantization.known import Known
from calib8.quantization.measuring import Measuring, costs_alone
from calib8.quantization.policy import Findings
from calib8.quantization.probe import Probe
from calib8.quantization.quant_plan import Budget, QuantPlan
from calib8.quantization.solve import RECIPES, STAIRS, WORTH, Solution, cheapest, solve
from calib8.quantization.solved import kept
from calib8.quantization.trials import Trial, Trials, possible
from calib8.verification.named import Least

#: What is tried where the usual recipes do not do, from cheap to costly.
COSTLY = (
    Recipe(shift=True, split=0.08),
    Recipe(smooth=0.5, shift=True, split=0.08),
    Recipe(shift=True, split=0.04, side=32),
    Recipe(smooth=0.5, shift=True, split=0.04, side=32),
)
ORDER = (*RECIPES, *STAIRS, *COSTLY)
#: Samples that a plan is measured on.
BUDGET_PROBED = 64
#: Score not worth spending.
LEAST_SLACK = 1e-6
#: Share of what is left of the budget that predictions may spend: they are predictions.
SPENT = 0.8


@dataclass(frozen=True)
class Reached:
    """Mean score on the probe and the standard error of that mean."""

    score: float
    error: float

    def keeps(self, target: float) -> bool:
        """Whether the target is kept, and would be on other samples: one standard error of head-room."""
        return self.score - self.error >= target


def quantise_within(case: Case, probe: Probe, asked: Least, progress: Progress) -> tuple[ir.Model, QuantPlan]:
    """The quantised model and its plan, mean score of the outputs that are meant at least what is ``asked`` of them.

    Raises ``AccuracyMissed`` if no plan with a quantised op keeps the budget, ``ConfigError`` if there is no op at all,
    or no such output.
    """
    probe, target = probe.only(asked), asked.least
    if probe.blind is not None:
        progress.note(probe.blind)
    case = case.with_gelu_ops(probe, progress)
    # The output judges, not a site's own numbers: the plan in the end is the one that was measured.
    lenient = replace(case, config=case.config.model_copy(update={"min_sqnr_db": -math.inf}))
    solutions = lenient.solutions(progress)
    with lenient.step("measured", progress, probe) as folder:
        search = _Search(lenient, probe, target, progress, solutions, folder)
        reached = search.run()
    budget = Budget(
        name=asked.name,
        score=probe.told,
        least=target,
        reached=reached.score,
        standard_error=reached.error,
        samples=len(probe.data),
    )
    plan = lenient.plan(search.solutions, search.measured()).model_copy(update={"budget": budget})
    return case.follow_soundly(plan, search.solutions, probe, target, progress), plan


class _Search:
    """The state of a search: how each op is quantised now, what that costs, and which ops are in float."""

    def __init__(
        self,
        case: Case,
        probe: Probe,
        target: float,
        progress: Progress,
        solutions: dict[str, Solution],
        folder: Path | None = None,
    ) -> None:
        """``folder``: where what is found is kept, for a search that is killed; see ``Case.step``."""
        self.case, self.probe, self.target, self.progress, self.solutions = case, probe, target, progress, solutions
        self._folder = folder
        self._tried = Known(folder / "trials.json" if folder is not None else None)
        plan = case.plan(solutions)
        self.names = plan.quantised
        if not self.names:
            raise ConfigError(
                "there is no op to quantise, whatever the budget. Change --include/--exclude, or calibrate on typical "
                f"data. The first op's reason: {plan.ops[0].reason}."
            )
        self.floats: list[str] = []
        self.measuring = self._measuring()
        self.costs = costs_alone(self.measuring, progress)
        self.base = self.measuring.score(())
        self._measured_as = dict(solutions)

    def run(self) -> Reached:
        """Search; what the plan found reaches."""
        if not self.reached().keeps(self.target):
            self._strengthen()
        if not self.reached().keeps(self.target):
            self._measure_again()
            self._leave_out()
        self._cheapen()
        self._measure_again()
        reached = self.reached()
        self.measuring.board.close()
        return reached

    def reached(self, floats: Sequence[str] | None = None) -> Reached:
        """What the plan as it is now reaches, or with other ops in float."""
        left_out = set(self.floats if floats is None else floats)
        scores = self.measuring.scores(name for name in self.names if name not in left_out)
        return Reached(float(scores.mean()), float(scores.mean()) - self.probe.bound(scores))

    def _measuring(self) -> Measuring:
        return self.case.measuring(set(self.names), self.solutions, self.probe, self._folder)

    def _open(self) -> None:
        """Measure the solutions as they are now; one switchboard at a time, since it holds every weight twice."""
        self.measuring.board.close()
        self.measuring = self._measuring()

    def _replace(self, recipes: Mapping[str, Trial]) -> None:
        """Quantise sites, by name, as other trials say; what they cost is taken to follow the trials' errors."""
        todo = [site for site in self._sites() if site.name in recipes]
        for done, site in enumerate(todo, start=1):
            trial, old = recipes[site.name], self.solutions[site.name]
            new = self._solved(site, trial.recipe)
            for op in site.ops:
                self.solutions[op.name] = Solution(new.quantised, new.trial, old.trials)
                if op.name not in self.floats:
                    self.costs[op.name] *= new.error / max(old.error, 1e-12)
            self.progress.update("quantise again", done, len(todo))
        self._open()

    def _solved(self, site: Site, recipe: Recipe) -> Solution:
        """``site`` quantised by ``recipe`` alone."""
        named = f"site-{hashlib.sha256(_told(site, recipe).encode()).hexdigest()[:16]}.npz"
        path = self._folder / named if self._folder is not None else None
        seen, config = self.case.statistics[site.tensor], self.case.config
        return kept(path, lambda: solve(seen, site, (recipe,), optimize=config.goal, grid=config.grid))

    def _costly(self, site: Site) -> list[Trial]:
        """What costlier recipes lose on ``site``; on a float grid they have nothing to win."""
        if not self.case.config.grid.even:
            return []

        @cache
        def trials() -> Trials:
            return Trials(self.case.statistics[site.tensor].sample(site.view).rows(), site)

        def trial(recipe: Recipe) -> Trial:
            [error] = self._tried.numbers(_told(site, recipe), lambda: [trials().run(recipe).error])
            return Trial(recipe, error)

        return [trial(recipe) for recipe in COSTLY if possible(recipe, site, self.case.config.goal)]

    def _measure_again(self) -> None:
        """What ops cost of which that was only predicted; those in float keep the cost that they were left out for."""
        todo = [
            name
            for name in self.names
            if name not in self.floats and self.solutions.get(name) is not self._measured_as.get(name)
        ]
        for done, name in enumerate(todo, start=1):
            self.costs[name] = self.base - self.measuring.score({name})
            self._measured_as[name] = self.solutions[name]
            self.progress.update("sensitivity again", done, len(todo))

    def _sites(self) -> list[Site]:
        return sites(self.case.model, set(self.solutions) & set(self.names))

    def _strengthen(self) -> None:
        """Step 1: costlier recipes, where they lower the error by enough and the output agrees."""
        before = self.solutions | {}, self.costs | {}, self.reached()
        better = {}
        for site in self._sites():
            old = self.solutions[site.name]
            if (best := cheapest([*old.trials, *self._costly(site)])).error < WORTH * old.error:
                better[site.name] = best
        if better:
            self._replace(better)
            if self.reached().score <= before[2].score:
                self.solutions, self.costs, _ = before
                self._open()

    def _leave_out(self) -> None:
        """Step 2: the fewest ops in float, in order of damage, that keep the budget."""
        order = sorted(self.names, key=lambda name: -self.costs[name])
        fewest, enough = 0, len(order)
        while fewest < enough:
            middle = (fewest + enough) // 2
            if self.reached(order[:middle]).keeps(self.target):
                enough = middle
            else:
                fewest = middle + 1
        if fewest == len(order):
            self._give_up(order)
        self.floats = order[:fewest]
        for name in reversed(self.floats[:-1]):  # one of the milder ones may not have been needed
            others = [other for other in self.floats if other != name]
            if self.reached(others).keeps(self.target):
                self.floats = others

    def _give_up(self, order: list[str]) -> None:
        nothing, everything = self.reached(order), self.reached(())
        told = self.case.config.grid.precision.upper()
        lossy = self.case.config.embedding and self.base < 1 - LEAST_SLACK
        table = " Embedding tables are int8 in both: try --float-embedding." if lossy else ""
        raise AccuracyMissed(
            f"no plan with an op in {told} keeps a mean {self.probe.told} of {self.target} by one standard error on "
            f"{len(self.probe.data)} held-out samples: all {len(order)} ops in {told} reach {everything.score:.5f} "
            f"(give or take {everything.error:.5f}), all in float {nothing.score:.5f}.{table} Lower the budget, or "
            "calibrate on more data."
        )

    def _cheapen(self) -> None:
        """Step 3: cheaper recipes for what is left of the budget."""
        reached = self.reached()
        slack = SPENT * (reached.score - reached.error - self.target)
        before = self.solutions | {}, self.costs | {}
        while slack > LEAST_SLACK and (cheaper := self._affordable(slack)):
            self._replace(cheaper)
            if self.reached().keeps(self.target):
                return
            self.solutions, self.costs = before[0] | {}, before[1] | {}
            self._open()
            slack /= 4

    def _affordable(self, slack: float) -> dict[str, Trial]:
        """Cheaper recipes whose predicted damage fits into ``slack``, the least damaging taken first."""
        options = []
        for site in self._sites():
            now = self.solutions[site.name]
            int8 = [op.name for op in site.ops if op.name not in self.floats]
            if not int8:
                continue
            cost = sum(max(self.costs[name], LEAST_SLACK) for name in int8)  # nothing is free: some was not seen
            for trial in now.trials:
                if _rank(trial) < _rank(now.trial):
                    options.append((cost * (trial.error / max(now.error, 1e-12) - 1), site.name, trial))
        chosen: dict[str, Trial] = {}
        spent: dict[str, float] = {}
        for cost, name, trial in sorted(options, key=lambda option: option[0]):
            better = name not in chosen or _rank(trial) < _rank(chosen[name])
            if better and sum(spent.values()) - spent.get(name, 0.0) + cost <= slack:
                chosen[name], spent[name] = trial, cost
        return chosen

    def measured(self) -> Findings:
        """What each op costs, and why some stay in float."""
        return Findings(
            {name: self.base - cost for name, cost in self.costs.items()},
            {
                name: f"alone it takes {self.costs[name]:.5f} from the {self.probe.told}; with it quantised too, the "
                f"plan would not keep {self.target}"
                for name in self.floats
            },
        )


def _told(site: Site, recipe: Recipe) -> str:
    return json.dumps([site.name, asdict(recipe)])


def _rank(trial: Trial) -> int:
    """Place of its recipe from cheap to costly, whatever the reach of the grid."""
    return ORDER.index(replace(trial.recipe, reach=1.0))
