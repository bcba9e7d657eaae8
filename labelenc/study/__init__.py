"""The whole method as one study: baseline, step 1, step 2, controls and their comparison.

Nothing here imports PyTorch before a timing does; the runs themselves are the real tools, as processes.
"""

from labelenc.study.plan import Stage, Study, StudyError, plan_study
from labelenc.study.run import run_study, train_study

__all__ = ["Stage", "Study", "StudyError", "plan_study", "run_study", "train_study"]
