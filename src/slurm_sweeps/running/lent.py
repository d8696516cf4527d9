"""Jobs that lend their nodes to a sweep: how they come, when they are to go, when they are gone.

Any job of the same user can lend: it offers what it has through the database, and from then on its
slots are used as the driver's own are, each by an srun that enters it (`srun --jobid`). A job that
ends takes only its slots away. Their trials are run again elsewhere, which is held against nobody:
neither trial, nor slot, nor node.

- Before a job ends, its trials are told to leave, as all are before the driver's own job does; but
  those that should end by themselves before it does are let.
- When there is nothing left to start, a job in which nothing runs is released, and ends. So is one
  that will end before anything comes to something there.
- What Slurm says of all jobs is asked for at once, about once a minute, and soon where a worker has
  died as if its job were gone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import AllocationError, say_count
from ..slurm.allocation import Allocation, revive_allocation
from ..slurm.client import JobWatch
from ..slurm.config import SlurmCfg
from ..slurm.share import plan_slots
from ..slurm.step import is_cancelled
from ..slurm.text import JobSight
from ..storage.jobs import decode_job
from ..storage.layout import Layout
from ..storage.records import JobRecord, JobState
from ..sweep import Sweep
from ..sweep_types import Ended
from ..trial import Status
from .channel import Connection
from .deadlines import Patience, compute_end_margin, compute_last_margin, plan_stop
from .launchers import FILES, FILES_PER_SLOT, SlurmLauncher, allow_open_files
from .recruiter import build_recruiter
from .slots import Loss, Slots, SlotState, SlotStatus

#: How often Slurm is asked what has become of the jobs; and where one may be gone. In seconds.
ASK_S, ASK_SOON_S = 60.0, 3.0

#: How often it is looked which jobs are needed no more, and how often where one is about to go; for
#: how long one must have been of no need. In seconds.
LOOK_S, LOOK_SOON_S, IDLE_S = 1.0, 0.25, 3.0

#: An end that moves by less, in seconds, is not written down again.
_SAME_S = 60.0

#: Why jobs that an earlier driver has left so have no part any more.
_LEFT_BEHIND = {
    JobState.DRIVING: "another job has taken its place",
    JobState.LEAVING: "it was about to end",
}

#: Why a job is let go that could go on.
_NOT_NEEDED = "it is needed no more"


@dataclass(frozen=True, slots=True)
class Lending:
    """What a driver needs to know to use the jobs that others lend it.

    Args:
        cfg: What each trial gets of a job.
        most: How many trials run at once at most, in all jobs; None for as many as there is room.
        own: The driver's own job; None outside of Slurm.
        jobs: Those that were there when it took the sweep over.
    """

    cfg: SlurmCfg = field(default_factory=SlurmCfg)
    most: int | None = None
    own: JobRecord | None = None
    jobs: Sequence[JobRecord] = ()


@dataclass(slots=True, eq=False)
class LentJob:
    """A job in use; points in time are those of `time.monotonic`."""

    record: JobRecord
    launcher: SlurmLauncher
    since: float
    ends_at: float = math.inf
    margin_s: float | None = None  # how long before that its trials are told to leave
    last_margin_s: float = 0.0  # and those that should end by themselves
    idle_since: float | None = None
    closing: str | None = None  # why nothing is started there any more
    is_held: bool = False  # suspended, say
    doubts: dict[Connection, float] = field(default_factory=dict)  # since when, see `Lent.doubts`

    def get_time_left(self, now: float, to_end: bool) -> float:
        """Return for how many seconds a trial may run: until it is told to leave, or `to_end`.

        An end that comes at the last moment is waited for until the next look.
        """
        if to_end:
            return self.ends_at - now - self.last_margin_s - LOOK_S
        return self.ends_at - now - (self.margin_s or 0.0)


class Lent:
    """See the module's docstring.

    Args:
        lending: What is to be known.
        slots: Where the jobs' slots are added to, and taken from.
        sweep: Says whether there is work.
        layout: Where files go.
        put: Keeps a job's record.
        notify: Tells the user something.
        ask_to_leave: Has a trial leave within so many seconds.
        take_loss: Ends trials whose worker is gone.
        patience: How long trials have to leave.
    """

    def __init__(
        self,
        lending: Lending,
        slots: Slots,
        sweep: Sweep,
        layout: Layout,
        put: Callable[[JobRecord], None],
        notify: Callable[..., None],
        ask_to_leave: Callable[[SlotState, float], None],
        take_loss: Callable[[Loss], None],
        patience: Patience,
    ) -> None:
        self._lending = lending
        self._slots = slots
        self._sweep = sweep
        self._layout = layout
        self._put = put
        self._notify = notify
        self._ask_to_leave = ask_to_leave
        self._take_loss = take_loss
        self._patience = patience
        self._jobs: dict[str, LentJob] = {}  # by the job's id
        self._watch = JobWatch()
        self._recruiter = build_recruiter(lending.cfg, layout, notify)
        self._heard_at = -math.inf
        self._look_at = -math.inf
        self.n_in_vain = 0  # slots whose worker waits, for they have too little time for any trial
        self._doubted_at = -math.inf  # since then Slurm's word is waited for

    # --- jobs come --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take up the driver's own job, and those that lent their nodes to the driver before."""
        own = self._lending.own
        if own is not None:
            self._put(own)
        if self._recruiter is not None:
            self._recruiter.begin()
        for job in self._lending.jobs:
            if own is not None and job.job_id == own.job_id:
                if job.restarts != own.restarts and not job.state.is_over:
                    self._keep_end(job, JobState.GONE, "it was queued again")
            elif job.state in _LEFT_BEHIND:
                self._keep_end(job, JobState.GONE, _LEFT_BEHIND[job.state])
            elif job.state in (JobState.WAITING, JobState.LENDING):
                self._welcome(job)

    def follow(self, kind: str, argument: str | None) -> None:
        """Do what a job asks: to "lend", or to "leave" since it will end soon."""
        try:
            job = decode_job(argument or "")
        except (ValueError, KeyError, TypeError):
            self._notify(f"a request of a job that can't be read was left aside: {argument!r}")
            return
        used = self._jobs.get(job.job_id)
        if kind == "leave":
            if used is not None:
                self._close(used, "it is about to end", self._list_busy(used))
            return
        if used is not None and used.record.restarts != job.restarts:
            self._bury(used, "it was queued again")
        self._welcome(job)

    def _welcome(self, job: JobRecord) -> None:
        if job.job_id in self._jobs:
            return
        try:
            launcher = self._build_launcher(job)
        except AllocationError as error:
            self._refuse(job, str(error))
            return
        self._slots.lend(launcher)
        allow_open_files(FILES + FILES_PER_SLOT * len(self._slots))
        count = len(launcher.slots)
        used = dataclasses.replace(job, state=JobState.LENDING, slots=count)
        ends_at = math.inf if job.ends_at is None else time.monotonic() + job.ends_at - time.time()
        self._jobs[job.job_id] = LentJob(used, launcher, time.monotonic(), ends_at)
        self._put(used)
        if self._recruiter is not None:
            self._recruiter.note_job(job.job_id, count)
        more = say_count(count, "more trial", "more trials")
        self._notify(f"job {job.job_id} lends {job.nodes}: {more} at once", again=True)
        for text in launcher.notices:
            self._notify(text)

    def _build_launcher(self, job: JobRecord) -> SlurmLauncher:
        """Divide what a job offers.

        Raises:
            AllocationError: A trial doesn't fit, or it can't be entered from here.
        """
        if shutil.which("srun") is None:
            raise AllocationError("the driver has no srun on its PATH to start trials there")
        try:
            offer: Allocation = revive_allocation(json.loads(job.offer))
        except ValueError as error:
            raise AllocationError(f"can't read what it offers: {error}") from error
        cfg, most = self._lending.cfg, self._lending.most
        plan = plan_slots(offer, cfg, most)
        first = self._slots.n_ever
        return SlurmLauncher(offer, plan, cfg, self._layout, self._notify, lent_from=first)

    def note_own_end(self, left_s: float) -> None:
        """Write down when the driver's own job ends, in so many seconds."""
        if self._lending.own is not None:
            self._put(dataclasses.replace(self._lending.own, ends_at=time.time() + left_s))

    def note_begun(self, slot: SlotState) -> None:
        """A trial has begun in a slot."""
        job = self._find(slot)
        if job is not None and self._recruiter is not None:
            self._recruiter.note_use(job.record.job_id)

    def note_vain(self) -> None:
        """No trial was found for a slot: see soon whether its job is of use."""
        self._look_at = min(self._look_at, time.monotonic() + LOOK_SOON_S)

    # --- and go -----------------------------------------------------------------------------------

    def takes_trials(self, slot: SlotState) -> bool:
        """Whether a further trial may begin in a slot."""
        job = self._find(slot)
        return job is None or not (job.closing or job.is_held)

    def runs(self, slot: SlotState, since: float) -> bool | None:
        """Whether a slot's job runs: nobody is heard from one that has its nodes and doesn't.

        As Slurm has said when it was asked after `since` (monotonic); None: it is asked, soon.
        """
        job = self._find(slot)
        if job is not None and self._heard_at <= since:
            self._doubted_at = max(self._doubted_at, since)
            return None
        return job is None or not job.is_held

    def get_time_left(self, slot: SlotState) -> float:
        """Return for how long a trial may run in a slot, in seconds; infinite in the driver's own.

        That ends as all trials do when their sweep stops, and goes on as it was.
        """
        job = self._find(slot)
        return math.inf if job is None else self._get_time_left(job, time.monotonic())

    def _get_time_left(self, job: LentJob, now: float) -> float:
        return job.get_time_left(now, to_end=self._sweep.minds_ends)

    def _find(self, slot: SlotState) -> LentJob | None:
        return self._jobs.get(slot.launcher.job_id or "") if slot.launcher.is_lent else None

    def doubts(self, slot: SlotState) -> bool:
        """Whether it can't be told yet why a slot's worker has ended, and Slurm has to be asked.

        The step of several tasks is cancelled when its job is, and when one of its workers dies.
        """
        job = self._find(slot)
        if job is None or slot.connection is None or slot.launcher.world_size == 1:
            return False
        if not is_cancelled(slot.connection.said):
            return False
        now = time.monotonic()
        since = job.doubts.setdefault(slot.connection, now)
        self._doubted_at = max(self._doubted_at, since)
        return self._heard_at <= since and now - since < ASK_S

    def explains(self, slot: SlotState, ended: Ended) -> bool:
        """Whether a trial has ended since Slurm ends its job: its tasks are sent TERM, all at once.

        The driver hears of that later.
        """
        was_told = ended.status is Status.INTERRUPTED or ended.signal == signal.SIGTERM
        return slot.launcher.is_lent and was_told

    def tick(self) -> bool:
        """Do what is due by now; return whether a job takes trials again that did not.

        Raises:
            LaunchError: The driver is to submit jobs, and none can be had.
        """
        now = time.monotonic()
        if self._recruiter is not None:
            self._recruiter.look(now, self._count_work, bool(self._jobs))
        if not self._jobs:
            return False
        resumed = False
        if self._watch.asked_at > self._heard_at:
            self._heard_at = self._watch.asked_at
            resumed = self._hear()
        if now >= self._look_at:
            self._look(now)
        return resumed

    def _look(self, now: float) -> None:
        """See to each job, and have Slurm asked where that is due."""
        need_s, self.n_in_vain = self._sweep.find_need(), 0
        for job in list(self._jobs.values()):
            self._look_at_one(job, now, need_s)
        is_one_closing = any(job.closing for job in self._jobs.values())
        self._look_at = now + (LOOK_SOON_S if is_one_closing else LOOK_S)
        doubted = self._doubted_at > self._heard_at or self._slots.any_taken
        self._watch.refresh(ASK_SOON_S if doubted else ASK_S)

    def _hear(self) -> bool:
        """Follow what Slurm says of all jobs; return whether one runs again."""
        resumed = self._slots.any_taken = False
        for job in list(self._jobs.values()):
            sight = self._watch.seen.get(job.record.job_id)
            if job.since > self._heard_at:
                continue
            if sight is None or not sight.is_there:
                self._bury(job, "it has ended" if sight is None else f"it is {sight.state}")
            else:
                resumed |= self._note_state(job, sight.state)
                self._note_end(job, sight)
        return resumed

    def _note_state(self, job: LentJob, state: str) -> bool:
        """Follow whether a job is suspended: its trials stand still; return if it is no more."""
        was_held, job.is_held = job.is_held, state != "RUNNING"
        if job.is_held and not was_held:
            count = sum(slot.trial is not None for slot in self._slots.list_lent(job.launcher))
            stand = say_count(count, "trial there stands", "trials there stand")
            self._notify(
                f"job {job.record.job_id} is {state}: {stand} still until it goes on; none is "
                "begun there",
                again=True,
            )
        elif was_held and not job.is_held:
            self._notify(f"job {job.record.job_id} runs again", again=True)
        return was_held and not job.is_held

    def _note_end(self, job: LentJob, sight: JobSight) -> None:
        job.ends_at = math.inf if sight.left_s is None else self._heard_at + sight.left_s
        if sight.left_s is None:
            return
        ends_at = time.time() + job.ends_at - time.monotonic()
        if abs((job.record.ends_at or 0.0) - ends_at) > _SAME_S:
            job.record = dataclasses.replace(job.record, ends_at=ends_at)
            self._put(job.record)

    def _count_work(self, limit: int) -> int:
        """Return how many slots are of use: so many of them at most, and those that are in vain."""
        work = len(self._sweep.running) + self._sweep.count_startable(limit)
        return min(work, self._lending.most or limit) + self.n_in_vain

    def stop(self) -> None:
        """Take no more jobs."""
        if self._recruiter is not None:
            self._recruiter.stop()

    def close(self) -> None:
        """See that no job waits in vain."""
        if self._recruiter is not None:
            self._recruiter.close()

    def _look_at_one(self, job: LentJob, now: float, need_s: float) -> None:
        self._mind_end(job, now)
        left_s, slots = self._get_time_left(job, now), self._slots.list_lent(job.launcher)
        refusal = self._slots.find_refusal(slots)
        if refusal and not job.is_held:
            self._remove(job)
            self._refuse(job.record, refusal)
            return
        is_of_use = need_s < math.inf and left_s >= need_s
        is_short = need_s < math.inf and not is_of_use
        if is_short:
            self.n_in_vain += sum(slot.status is SlotStatus.READY for slot in slots)
        if is_of_use or any(slot.trial for slot in slots):
            job.idle_since = None
        else:
            job.idle_since = job.idle_since or now
        if job.idle_since is not None and (is_short or now - job.idle_since >= IDLE_S):
            short = f"nothing comes to an end in {left_s:.0f} s; {need_s:.0f} s are needed"
            job.closing = job.closing or (short if is_short else _NOT_NEEDED)
        if job.closing and self._slots.let_go(job.launcher):
            self._release(job)

    def _mind_end(self, job: LentJob, now: float) -> None:
        """As a job's end comes near, tell those trials to leave that will not end before."""
        left_s = job.ends_at - now
        if job.margin_s is None and left_s < math.inf:
            whole_s = max(left_s, left_s + time.time() - job.record.since)
            job.margin_s = compute_end_margin(self._patience, whole_s)
            job.last_margin_s = compute_last_margin(self._patience, whole_s)
        if left_s >= (job.margin_s or 0.0):
            return
        within_s, wall = left_s - job.last_margin_s, time.time()
        late = [
            slot
            for slot in self._list_busy(job)
            if slot.trial is not None and slot.trial.told is None
            if within_s <= 0 or not self._sweep.may_end(slot.trial, wall, within_s)
        ]
        if late or within_s <= 0:
            self._close(job, "its time is nearly over", late)

    def _close(self, job: LentJob, why: str, late: Sequence[SlotState]) -> None:
        """Start nothing more in a job, and have these of its trials leave."""
        if job.closing and not late:
            return
        plan = plan_stop(self._patience, job.ends_at - time.monotonic())
        self._notify(
            f"job {job.record.job_id}: {why}; {plan.describe(len(late))}; what is "
            "interrupted there goes on elsewhere",
            again=True,
        )
        if not job.closing:
            job.closing = why
            job.record = dataclasses.replace(job.record, state=JobState.LEAVING)
            self._put(job.record)
        for slot in late:
            if slot.trial is not None:
                self._sweep.interrupt(slot.trial.number)
                self._ask_to_leave(slot, plan.grace_s)

    def _list_busy(self, job: LentJob) -> list[SlotState]:
        return [slot for slot in self._slots.list_lent(job.launcher) if slot.trial is not None]

    def _release(self, job: LentJob) -> None:
        """Let a job end in which nothing runs, and nothing will."""
        self._remove(job)
        is_of_use = job.closing == _NOT_NEEDED  # it would have been
        if is_of_use and self._recruiter is not None:
            self._recruiter.note_use(job.record.job_id)
        self._keep_end(job.record, JobState.RELEASED, None if is_of_use else job.closing)
        self._notify(f"job {job.record.job_id} is released: {job.closing}", again=True)

    def _bury(self, job: LentJob, why: str) -> None:
        """A job has gone, with all that ran there."""
        lost = self._remove(job)
        self._keep_end(job.record, JobState.GONE, why)
        ran = say_count(lost, "trial that ran there is", "trials that ran there are")
        again = f"; {ran} run again" if lost else ""
        self._notify(
            f"job {job.record.job_id} lends {job.record.nodes} no more: {why}{again}", True
        )

    def _remove(self, job: LentJob) -> int:
        self.n_in_vain = 0  # until the next look
        del self._jobs[job.record.job_id]
        if self._recruiter is not None:
            self._recruiter.note_end(time.monotonic())
        loss = self._slots.withdraw(self._slots.list_lent(job.launcher))
        self._take_loss(loss)
        return len(loss.ends)

    def _refuse(self, job: JobRecord, why: str) -> None:
        self._keep_end(job, JobState.REFUSED, why)
        self._notify(f"job {job.job_id} on {job.nodes} can't be used: {why}")

    def _keep_end(self, job: JobRecord, state: JobState, note: str | None = None) -> None:
        self._put(dataclasses.replace(job, state=state, ended_at=time.time(), note=note))
