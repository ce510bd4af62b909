"""Which tests the fast tier leaves out, beside those marked slow where they stand: tests that take
seconds and whose subject a quicker test touches too.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

#: Patterns of ids below tests/. What stays in the fast tier stands beside them.
SLOW = (
    # one killed driver: [2-0.05-4], processes and a checkpoint every twentieth of a second
    "runs/test_killed_driver.py::test_killed_at_any_instant*none-1-10*",
    "runs/test_killed_driver.py::test_killed_at_any_instant*threads-7-6*",
    "async_sgd/test_async_processes.py::test_a_killed_driver_loses_nothing*",
    # one killed worker: by the check suite of evaluators, and from outside
    "runs/test_failure_policy.py::test_workers_that_are_killed_during_fifty_rounds*",
    "runs/test_failure_policy.py::test_a_hanging_worker_is_killed*",
    "runs/test_failure_policy.py::test_starting_a_worker_takes_nothing*",
    "runs/test_failure_policy.py::test_evaluations_that_were_given_up*2]",
    "async_sgd/test_async_processes.py::test_a_hanging_process_is_killed*",
    "execution/test_executors.py::test_a_worker_that_dies_while_a_call_is_written*",
    "execution/test_executors.py::test_workers_and_programs_need_no_standard_streams*[[]>&-]",
    "execution/test_root_pool.py::test_workers_that_die_while_they_compute*",
    # exceptions of users in processes: the first kind
    "execution/test_executors.py::test_an_exception_without_a_message*integer-Unformattable]",
    "async_sgd/test_worker_loop.py::*test_what_is_no_exception*error1-processes]",
    # compiled code of others: a folder that the group may write, and links
    "backends/test_disk_cache.py::*test_what_others_may_write*folder 702]",
    "backends/test_disk_cache.py::*test_what_others_may_write*entries 666]",
    # warm_up: the example of its docstring
    "runs/test_warmup.py::test_a_run_after_it_compiles_nothing*",
    # one real Dask cluster: test_a_dask_cluster_evaluates
    "execution/test_clusters.py::test_a_dask_worker_that_is_killed*",
    "execution/test_clusters.py::test_a_timeout_restarts_the_worker*",
    "execution/test_clusters.py::test_a_point_that_always_kills*",
    "async_sgd/test_async_clusters.py::test_a_dask_cluster*",
    "async_sgd/test_async_clusters.py::test_mpi_workers*",
    # one MPI job: test_an_mpi_job_evaluates
    "execution/test_clusters.py::test_mpi_options_are_checked*",
    # benchmark cases: their arithmetic, and one whole run
    "bench/test_wallclock.py::test_a_small_benchmark*",
    "bench/test_wallclock.py::test_one_that_is_terminated*",
    "bench/test_bench_overhead.py::test_a_cell_in_a_process*",
    "bench/test_bench_shampoo.py::test_step_times_are_measured*",
    # applications: their parts
    "examples/test_topic_model.py::*test_a_dead_worker_costs_topics*",
    "examples/test_topic_model.py::test_the_script_runs*",
    "examples/test_actor_critic.py::*test_the_script_runs*",
    # one protocol machine of a strategy with a window, one without
    "engine/test_protocol_machine.py::test_the_protocol_holds*corrected*",
    "engine/test_protocol_machine.py::test_the_protocol_holds*verified*",
    "engine/test_protocol_machine.py::test_the_protocol_holds*repeat_last*",
    "engine/test_protocol_machine.py::test_the_protocol_holds*line_search*",
    "engine/test_protocol_machine.py::test_the_protocol_holds*data_parallel*",
    "engine/test_protocol_machine.py::test_the_protocol_holds*target*",
    # the command line: test_minimize in this process
    "cli/test_cli.py::test_minimize_an_external_program_within_bounds*",
    "cli/test_cli.py::test_check_of_separate_and_of_vectorized*",
    # examples: the first ones, and those of executors and programs
    "test_examples.py::test_example_runs*async_sgd_dask*",
    "test_examples.py::test_example_runs*dask_cluster*",
    "test_examples.py::test_example_runs*numba_function*",
    "test_examples.py::test_example_runs*shampoo_network*",
    # state machines: that they hold, not that they find
    "model/test_history_machine.py::test_the_machine_finds*",
    # the checks of gradients: 29 faults, not 200 right ones
    "testing/test_check_gradient.py::test_at_most_one_alarm*",
)


def is_slow(nodeid: str) -> bool:
    """Whether a test is of the slow tier."""
    name = nodeid.removeprefix("tests/")
    return any(fnmatchcase(name, pattern) for pattern in SLOW)
