"""For the process that those which measure memory are forked from, and for no other.

Starting torch's profiler and importing other libraries takes seconds and is done here once. The
profiler writes to stderr whenever it starts or stops, so this process and its children have none.
"""

import os

from torch.profiler import ProfilerActivity, profile

from .cases import cases

os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
with profile(activities=[ProfilerActivity.CPU]):
    pass
cases()
