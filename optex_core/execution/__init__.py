"""Evaluators: this thread, threads, processes, a user's pool. The only code that starts threads or
processes.
"""
