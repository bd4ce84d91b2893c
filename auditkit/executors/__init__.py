"""Where units are computed: in processes of this machine, or on a Ray cluster."""

from auditkit.executors.choose import apart, executor_for, worker_processes, zygote_for
from auditkit.executors.dispatch import Executor

__all__ = ["Executor", "apart", "executor_for", "worker_processes", "zygote_for"]
