"""Ask SLURM for jobs with one GPU each and send the runs of a study to them.

    python examples/cluster/slurm.py --jobs 20 -- upadhyay2023 --profile full --device cuda

Needs dask-jobqueue. Edit the partition and the account for your site; everything else works as it is.
"""

import argparse
import subprocess
import sys


def main():
    """Start the jobs, run `sparsemtl run` on them, and give them back; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=4, help="SLURM jobs, each one worker (default: 4)")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of a job, 0 for none (default: 1)")
    parser.add_argument("--memory", default="32GB", help="memory of a job (default: 32GB)")
    parser.add_argument("--hours", type=int, default=8, help="time limit of a job (default: 8)")
    parser.add_argument("--partition", help="SLURM partition (default: the site's)")
    parser.add_argument("--account", help="SLURM account (default: yours)")
    parser.add_argument("run", nargs="+", help="arguments of `sparsemtl run`")
    args = parser.parse_args()
    from dask_jobqueue import SLURMCluster

    with SLURMCluster(
        cores=1, processes=1, memory=args.memory, walltime=f"{args.hours:02d}:00:00", queue=args.partition,
        account=args.account, python=sys.executable,
        job_extra_directives=[f"--gres=gpu:{args.gpus}"] if args.gpus else [],
        worker_extra_args=["--resources", f"GPU={args.gpus}"] if args.gpus else [],
        scheduler_options={"dashboard_address": None},
    ) as cluster:  # fmt: skip
        cluster.scale(jobs=args.jobs)
        command = [sys.executable, "-m", "companion", "run", *args.run, "--scheduler", cluster.scheduler_address]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
