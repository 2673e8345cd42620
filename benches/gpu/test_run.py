"""Tests how benches/gpu/run parses the output of programs, and its time limits. Needs neither a GPU nor PyTorch:

    python3 -m unittest discover benches/gpu
"""

import importlib.machinery
import importlib.util
import pathlib
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("gpu_run", str(HERE / "run"))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_run", loader))
loader.exec_module(run)
sys.path.insert(0, str(HERE))
import prune_fatbin  # noqa: E402


def answer(text, emotion, joy):
    return {"text": text, "emotion": emotion, "scores": {"joy": joy, "anger": 1 - joy}}


class Comparison(unittest.TestCase):
    def test_equal_labels_are_counted_and_the_largest_difference_found(self):
        reference = [answer("a", "joy", 0.9), answer("b", "anger", 0.4)]
        tested = [answer("a", "joy", 0.88), answer("b", "joy", 0.51)]
        found = run.compare(reference, tested)
        self.assertEqual((found["texts"], found["equal_labels"]), (2, 0.5))
        self.assertAlmostEqual(found["largest_difference"], 0.11)

    def test_answers_for_other_texts_are_refused(self):
        with self.assertRaisesRegex(run.StepFailed, "same texts"):
            run.compare([answer("a", "joy", 0.9)], [answer("b", "joy", 0.9)])
        with self.assertRaisesRegex(run.StepFailed, "same texts"):
            run.compare([answer("a", "joy", 0.9)], [])

    def test_a_text_without_an_answer_is_a_failure(self):
        with self.assertRaisesRegex(run.StepFailed, "out of memory"):
            run.compare([answer("a", "joy", 0.9)], [{"text": "a", "error": "out of memory"}])


class Output(unittest.TestCase):
    def test_only_complete_json_objects_are_read(self):
        self.assertEqual(run.json_lines('warming up\n{"a": 1}\n{"broken": \n{"b": 2}\n'), [{"a": 1}, {"b": 2}])

    def test_the_best_rate_ignores_failed_combinations(self):
        rates = [{"sessions": 4, "error": "out of memory"}, {"posts_per_second": 5.0}, {"posts_per_second": 7.0}]
        self.assertEqual(run.best(rates), {"posts_per_second": 7.0})
        with self.assertRaisesRegex(run.StepFailed, "out of memory"):
            run.best(rates[:1])

    def test_the_table_shows_failures_and_figures(self):
        rate = {"posts_per_second": 100.0, "flops_per_second": 5e12, "sessions": 2, "max_batch_posts": 64, "max_batch_tokens": 4096}
        report = {"provider": "cuda", "started": "now", "steps": {
            "ceiling": {"seconds": 1.0, "result": {"flops_fp16": 1e13}},
            "rates": {"seconds": 1.0, "result": {"roberta-base": {"best": rate}}},
            "peers": {"seconds": 1.0, "error": "took longer than its 120 s"},
        }}
        text = run.table(report)
        self.assertIn("50.0% of the ceiling", text)
        self.assertIn("FAILED: took longer than its 120 s", text)


class Limits(unittest.TestCase):
    def test_a_hanging_step_is_killed_with_its_children(self):
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            with self.assertRaisesRegex(run.StepFailed, "longer than"):
                run.run_step(["bash", "-c", "cat /dev/zero | cat > /dev/null"], 0.5, f"{folder}/log")
            self.assertLess(time.monotonic() - start, 20)

    def test_a_failure_includes_the_last_line_of_output(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(run.StepFailed, "status 3: no such library"):
                run.run_step(["bash", "-c", "echo no such library >&2; exit 3"], 30, f"{folder}/log")


class Pruning(unittest.TestCase):
    @staticmethod
    def entry(architecture, payload):
        import struct

        return struct.pack("<HHIQ", 2, 1, 64, len(payload)) + bytes(12) + struct.pack("<I", architecture) + bytes(32) + payload

    def test_only_the_selected_architecture_keeps_its_code(self):
        import struct

        entries = self.entry(80, b"\x01" * 40) + self.entry(90, b"\x02" * 40)
        fatbin = struct.pack("<IHHQ", prune_fatbin.MAGIC, 1, 16, len(entries)) + entries
        library = bytearray(bytes(24) + fatbin + bytes(16))
        length = len(library)
        sizes = prune_fatbin.prune(library, [(24, len(fatbin))], 90)
        self.assertEqual(dict(sizes), {80: 40, 90: 40})
        self.assertEqual(len(library), length)
        self.assertNotIn(b"\x01" * 40, library)
        self.assertIn(b"\x02" * 40, library)


if __name__ == "__main__":
    unittest.main()
