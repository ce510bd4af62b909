"""One run on the clock, on disk and on screen: the loop of `minimize`, its policy and its files.

Failures. Only the evaluation of the iterate itself can end a run: by ``on_error`` it is raised,
dropped or tried again with the same point and seed. An evaluation that exceeds ``timeout`` counts
as failed; one that is lost with its worker is submitted again and counts as no attempt.

Files. Every call of the engine is written to a journal before it is made, every save is written
whole and then renamed (`checkpoint_manager`). Killed at any instant, a continued run evaluates no
gradient again that had arrived, and has the bits of one that was not interrupted. What is damaged
is kept and named, and the save before it used (`recovery`). One driver at a time.
"""
