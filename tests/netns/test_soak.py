"""A short soak in every run; scripts/soak is the long one."""
import soak


def soaked(lab, seconds, seed, **options):
    run = soak.Soak(lab, seconds, seed, **options)
    try:
        return run.run()
    finally:
        run.close()


def test_twenty_seconds_of_everything(lab):
    report = soaked(lab, 20, 1, kill_monitor=False)
    assert not soak.judge(report), report


def test_without_deaths_every_flow_and_every_number_is_accounted_for(lab):
    run = soak.Soak(lab, 6, 2, kill_monitor=False)
    run.kill_worker = run.reload
    try:
        report = run.run()
    finally:
        run.close()
    assert report["runs of numbers"] == report["workers"] and report["without an end"] == 0 and report["torn"] == 0, report
    assert not soak.judge(report), report
