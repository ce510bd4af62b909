"""Where bursts run: this thread, threads, worker processes, any pool. One file each behind the seam
of `base`.
"""
