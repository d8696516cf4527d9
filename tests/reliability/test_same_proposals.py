"""The model proposes the same again: beside a busy thread, and after the driver was killed."""

from __future__ import annotations

from sweep_scripts import IS_CHAOS, Scripts

SWEEP = """
    import os, signal, sys, threading, time
    import slurm_sweeps as ss

    def train(cfg):
        with open("../../begun", "ab") as file:
            file.write(b".")
            n_begun = file.tell()
        for iteration in (1, 2, 3):
            time.sleep(0.003)
            ss.log({"loss": (cfg["x"] - 0.3) ** 2 + 1 / iteration}, iteration)
            if iteration == 2 and f"kill-at-{n_begun}" in os.environ["HOW"]:
                os.kill(int(os.environ["DRIVER"]), signal.SIGKILL)
                time.sleep(60)

    def keep_busy():
        while True:
            sum(range(100_000))
            time.sleep(0.002)

    if __name__ == "__main__":
        os.environ["DRIVER"], os.environ["HOW"] = str(os.getpid()), " ".join(sys.argv[2:])
        if "busy" in sys.argv:  # takes the lock that a fit needs
            threading.Thread(target=keep_busy, daemon=True).start()
        experiment = ss.Experiment(
            train,
            {"x": ss.Uniform(0, 1)},
            "same",
            sys.argv[1],
            asha=ss.ASHA("loss", "min"),
            sampler=ss.samplers.Model(n_startup=6),
            seed=0,
            restore="auto",
        )
        result = experiment.run(int(os.environ["N_TRIALS"]), 1)
        print("proposed", [trial.cfg["x"] for trial in result.trials])
"""


def test_the_same_seed_proposes_the_same_however_long_a_fit_takes(scripts: Scripts) -> None:
    n_trials, kills = (18, (8, 14)) if IS_CHAOS else (12, (9,))
    scripts.env["N_TRIALS"] = str(n_trials)

    def run(*arguments: str) -> str:
        return scripts.run(SWEEP, *arguments).stdout.rpartition("proposed ")[2]

    proposed = run("first")
    assert proposed.count(",") == n_trials - 1
    assert run("beside", "busy") == proposed

    for at in kills:
        scripts.run(SWEEP, "killed", f"kill-at-{at}", code=-9)
    assert run("killed") == proposed
