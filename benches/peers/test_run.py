"""Tests how benches/peers/run reads the output of programs and computes its table. Needs neither the peers nor a build:

    python3 -m unittest discover benches/peers
"""

import importlib.machinery
import importlib.util
import pathlib
import re
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("peers_run", str(HERE / "run"))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("peers_run", loader))
loader.exec_module(run)


def one_round(cpu, labels, wall=None):
    return {"cpu_seconds": cpu, "wall_seconds": wall or cpu, "labels": labels}


class Texts(unittest.TestCase):
    def test_texts_are_cleaned_to_single_lines(self):
        self.assertEqual(run.cleaned("RT @user: a &amp;amp; b\u200b\u2028c  d"), "a & b c d")
        self.assertEqual(run.cleaned("cafe\u0301"), "café")

    def test_a_text_that_was_not_classified_is_a_failure(self):
        self.assertEqual(run.labels_of('log line\n{"emotion": "joy"}\n{"emotion": "fear"}\n'), ["joy", "fear"])
        with self.assertRaisesRegex(run.Failed, "out of memory"):
            run.labels_of('{"text": "a", "error": "out of memory"}\n')


class Summary(unittest.TestCase):
    def test_rates_and_ratios_are_medians_of_the_rounds(self):
        measured = {
            "transformers": [one_round(cpu, ["joy", "fear"]) for cpu in (2.0, 4.0, 2.0)],
            "moodstream": [one_round(cpu, ["joy", "joy"], 2 * cpu) for cpu in (0.5, 0.5, 0.2)],
        }
        found = run.summary(measured, 2)
        self.assertEqual(found["transformers"]["posts_per_cpu_second"], 1.0)
        ours = found["moodstream"]
        self.assertEqual((ours["posts_per_cpu_second"], ours["ratio"], ours["equal_labels"]), (4.0, 8.0, 0.5))
        self.assertEqual(ours["cpu_seconds_per_second"], 0.5)

    def test_without_the_reference_there_are_no_ratios(self):
        found = run.summary({"moodstream": [one_round(1.0, ["joy"])]}, 1)
        self.assertNotIn("ratio", found["moodstream"])

    def test_missing_answers_are_a_failure(self):
        with self.assertRaisesRegex(run.Failed, "1 of 2 texts"):
            run.check_answers(one_round(1.0, ["joy"]), 2)


class Table(unittest.TestCase):
    def test_the_table_shows_failures_and_figures(self):
        engines = run.summary({"transformers": [one_round(2.0, ["joy"])], "moodstream": [one_round(0.1, ["joy"])]}, 1)
        report = {
            "processor": run.processor_of("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni\n"),
            "load_before": 1.0, "load_after": 2.0, "started": "now", "rounds": 1,
            "shapes": {
                "shipped": {"texts": 1, "mean_tokens": 50.0, "engines": engines, "failed": {"torch-bf16": "exit status 1: no torch"}},
                "roberta-base": {"error": "took longer than 3600 s"},
            },
        }
        text = run.table(report)
        self.assertIn("has avx2, avx512_vnni and lacks avx_vnni", text)
        self.assertIn("| moodstream int8 | 10.0 | 10.0, 10.0 | 20.00 | 100.00% | 1.00 |", text)
        self.assertIn("FAILED: exit status 1: no torch", text)
        self.assertIn("roberta-base: FAILED: took longer than 3600 s", text)


class Programs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.log = f"{folder.name}/log"

    def worker(self, code):
        worker = run.Worker([sys.executable, "-c", code], self.log)
        self.addCleanup(worker.close)
        return worker

    def test_a_worker_answers_once_per_round(self):
        worker = self.worker("import sys\nprint('noise')\nprint('{\"ready\": 1}', flush=True)\n"
                             "for line in sys.stdin: print('{\"cpu_seconds\": 2}', flush=True)")
        self.assertEqual(worker.ready(), {"ready": 1})
        self.assertEqual([worker.round(), worker.round()], [{"cpu_seconds": 2}] * 2)

    def test_a_worker_that_fails_or_hangs_is_reported(self):
        with self.assertRaisesRegex(run.Failed, "status 3: no such library"):
            self.worker("import sys; print('no such library', file=sys.stderr); sys.exit(3)").ready()
        start = time.monotonic()
        with self.assertRaisesRegex(run.Failed, "longer than"):
            self.worker("import time; time.sleep(60)").answer(0.3)
        self.assertLess(time.monotonic() - start, 20)

    def test_a_child_s_cpu_time_excludes_its_waiting(self):
        out, cpu, wall = run.run_child([sys.executable, "-c", "import time; time.sleep(1); print(7)"], 30, self.log)
        self.assertEqual(out, "7\n")
        self.assertLess(cpu, wall)
        with self.assertRaisesRegex(run.Failed, "status 3: no such file"):
            run.run_child(["sh", "-c", "echo no such file >&2; exit 3"], 30, self.log)
        with self.assertRaisesRegex(run.Failed, "longer than"):
            run.run_child(["sleep", "60"], 0.3, self.log)


class Pins(unittest.TestCase):
    def test_every_package_has_an_exact_version(self):
        lines = [line for line in run.REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
        self.assertGreater(len(lines), 5)
        for line in lines:
            self.assertRegex(line, r"^[a-z0-9_-]+==[0-9][0-9a-z.]*$")

    def test_onnx_runtime_is_the_version_that_moodstream_runs_with(self):
        version = re.compile(r"^onnxruntime==\S+", re.MULTILINE)
        deployed = (run.ROOT / "deploy" / "requirements.txt").read_text()
        self.assertEqual(version.search(run.REQUIREMENTS.read_text())[0], version.search(deployed)[0])


if __name__ == "__main__":
    unittest.main()
