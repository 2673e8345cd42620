"""Tests how benches/gpu/run parses the output of programs, and its time limits. Needs neither a GPU nor PyTorch:

    python3 -m unittest discover benches/gpu
"""

import importlib.machinery
import importlib.util
import pathlib
import signal
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))
loader = importlib.machinery.SourceFileLoader("gpu_run", str(HERE / "run"))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_run", loader))
loader.exec_module(run)
import processes  # noqa: E402
import prune_fatbin  # noqa: E402
import results  # noqa: E402
import service  # noqa: E402


RATE = {"posts_per_second": 100.0, "flops_per_second": 5e12, "sessions": 2, "max_batch_posts": 64, "max_batch_tokens": 4096}


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

    def test_the_table_shows_failures_figures_and_the_settings_to_use(self):
        chosen = {"variant": "packed", "checked": "equal labels on 100.0% of 200 texts", "rate": RATE,
                  "settings": {"classify__io_binding": "true", "classify__sessions": 2}}
        report = {"provider": "cuda", "started": "now", "steps": {
            "models": {"seconds": 1.0, "result": {"a": "ok", "b": "exit status 2: no such command"}},
            "ceiling": {"seconds": 1.0, "result": {"flops_fp16": 1e13, "flops_bf16": 2e13}},
            "rates": {"seconds": 1.0, "result": {
                "variants": {"fused": {"best": RATE, "error": "took longer than its 28 s"},
                             "TensorRT": {"error": "libnvinfer is not there"}},
                "shipped": {}, "chosen": chosen}},
            "peers": {"seconds": 1.0, "result": {"transformers, arrival order": {"posts_per_second": 50.0, "batch": 64}}},
            "service": {"seconds": 1.0, "error": "took longer than its 60 s"},
        }}
        text = run.table(report)
        for part in ("50.0% of the ceiling", "FAILED: took longer than its 60 s", "no model b: exit status 2",
                     "incomplete: took longer", "not measured: libnvinfer",
                     "goal useful FLOP/s as a share of the ceiling: 0.50, reached",
                     "arrival order: 2.00, missed (at least 3)",
                     "best settings (packed, equal labels on 100.0% of 200 texts): classify.io_binding = true, "
                     "classify.sessions = 2"):
            self.assertIn(part, text)


def proof(equal, difference):
    return {"against_reference": {"equal_labels": equal}, "alone_against_batched": {"largest_difference": difference}}


class Choice(unittest.TestCase):
    VARIANTS = {
        "fused": {"model": "base", "best": {**RATE, "posts_per_second": 100.0}},
        "graphs": {"model": "base", "error": "out of memory"},
        "packed": {"model": "base-packed", "best": {**RATE, "posts_per_second": 200.0}},
    }

    def test_the_fastest_variant_comes_first_and_unmeasured_ones_are_left_out(self):
        self.assertEqual(results.candidates(self.VARIANTS, {"base-packed": proof(0.999, 1e-3)}), ["packed", "fused"])
        self.assertEqual(results.candidates(self.VARIANTS, {}), ["packed", "fused"])

    def test_a_variant_whose_graph_failed_the_proof_is_not_chosen(self):
        for failed in (proof(0.99, 1e-3), proof(1.0, 0.2), {"error": "a node is not on the device"}):
            self.assertEqual(results.candidates(self.VARIANTS, {"base-packed": failed}), ["fused"])

    def test_a_variant_s_settings_include_the_limits_at_which_it_was_fastest(self):
        settings = results.settings_of({"settings": {"classify__io_binding": "true"}}, RATE, 4096)
        self.assertEqual(settings, {"classify__io_binding": "true", "classify__sessions": 2, "classify__max_batch_posts": 64,
                                    "classify__max_batch_tokens": 4096, "window__max_posts": 4096})

    def test_variants_set_what_their_flags_set(self):
        for variant in run.VARIANTS.values():
            named = {"--" + name.removeprefix("classify__").replace("_", "-") for name in variant["settings"]}
            self.assertEqual(named, set(variant["flags"]))

    def test_tensorrt_is_found_beside_torch(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            self.assertIsNone(run.tensorrt_folder([root]))
            (root / "tensorrt_libs").mkdir()
            (root / "tensorrt_libs" / "libnvinfer.so.10").touch()
            self.assertEqual(run.tensorrt_folder([root]), str(root / "tensorrt_libs"))


class Service(unittest.TestCase):
    SCRAPE = """# HELP moodstream_outcomes_total Processed records
moodstream_outcomes_total{outcome="inserted"} %d
moodstream_stage_seconds_sum{stage="read"} 4
moodstream_tokenize_seconds_sum 9.5
moodstream_inference_seconds_sum 12
moodstream_transaction_seconds_sum 3
"""

    def test_the_busiest_stage_limits_the_rate(self):
        shares = service.busy_shares({}, service.samples(self.SCRAPE % 1), 10.0, sessions=2, readers=4)
        self.assertEqual(shares, {"decoding and cleaning": 0.1, "tokenizer": 0.95, "sessions": 0.6, "transactions": 0.3})
        self.assertEqual(service.binding(shares), "tokenizer")
        self.assertIn("none of the stages", service.binding({"tokenizer": 0.3, "sessions": 0.4}))

    def test_the_rate_is_taken_between_the_first_and_the_last_transaction(self):
        scrapes = [(at, service.samples(self.SCRAPE % count)) for at, count in ((0, 0), (1, 100), (3, 500), (4, 500))]
        first, last = service.steady(scrapes)
        self.assertEqual((first[0], last[0]), (1, 3))
        self.assertIsNone(service.steady(scrapes[:2]))
        self.assertIsNone(service.steady(scrapes[:1]))

    def test_a_short_run_is_evaluated_as_a_whole_and_a_long_one_until_it_is_stopped(self):
        summary = {"seconds": 0.5, "posts_per_second": 200.0, "inserted": 100, "texts_cached": 0, "padding_share": 0.0}
        scrapes, used = [(1.0, service.samples(self.SCRAPE % 100))], [{"service": 2.0}]
        found = service.evaluate(summary, scrapes, used, None, 0.0, 2)
        self.assertEqual((found["posts_per_second"], found["cores"]["service"]), (200.0, 2.0))
        # What the service commits after it was stopped counts only if there is nothing else to measure.
        scrapes = [(at, service.samples(self.SCRAPE % count)) for at, count in ((0, 100), (2, 300), (4, 320))]
        used = [{"service": 0.0}] * 3
        self.assertEqual(service.evaluate(summary, scrapes, used, 2, 0.0, 2)["posts_per_second"], 100.0)
        self.assertEqual(service.evaluate(summary, scrapes, used, 1, 0.0, 2)["posts_per_second"], 55.0)
        with self.assertRaisesRegex(run.StepFailed, "before its metrics"):
            service.evaluate(summary, [], [], None, 0.0, 2)

    def test_posts_have_distinct_ids_and_the_texts_in_turn(self):
        import json

        with tempfile.TemporaryDirectory() as folder:
            texts, posts = pathlib.Path(folder) / "texts", pathlib.Path(folder) / "posts"
            texts.write_text('so "happy"\nsad\n')
            service.write_posts(posts, texts, 3, 1_000_000)
            written = [json.loads(line) for line in posts.read_text().splitlines()]
        self.assertEqual([post["text"] for post in written], ['so "happy"', "sad", 'so "happy"'])
        self.assertEqual(len({post["id"] for post in written}), 3)
        self.assertTrue(all(999_400 <= post["created_at"] < 1_000_000 for post in written))

    def test_enough_posts_are_fed_for_the_highest_rate_and_not_too_many(self):
        self.assertEqual(run.posts_for([1000.0, 2000.0], 20, quick=False), 40_000)
        self.assertEqual(run.posts_for([1e6], 20, quick=False), run.MAX_POSTS)
        self.assertEqual(run.posts_for([], 5, quick=True), 500)


class Libraries(unittest.TestCase):
    def test_the_folders_of_the_cuda_libraries_beside_torch_are_found(self):
        libraries = ["cu13/lib/libcublasLt.so.13", "cu13/lib/libcufft.so.12", "cudnn/lib/libcudnn.so.9",
                     "cuda_nvrtc/lib/libnvrtc.so.13", "nccl/lib/libnccl.so.2"]
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for library in libraries:
                path = root / "nvidia" / library
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            found = [pathlib.Path(path).relative_to(root / "nvidia").as_posix() for path in run.library_path(root)]
        self.assertEqual(found, ["cu13/lib", "cuda_nvrtc/lib", "cudnn/lib"])


class Limits(unittest.TestCase):
    def test_all_steps_together_take_at_most_six_minutes(self):
        self.assertLessEqual(sum(run.LIMITS.values()), 360)
        self.assertEqual(max(run.ends(run.LIMITS, 1).values()), sum(run.LIMITS.values()))

    def test_a_step_may_use_the_time_that_earlier_ones_have_left(self):
        ends = run.ends(["unpack", "peers"], 2)
        self.assertEqual(ends, {"unpack": 2 * run.LIMITS["unpack"], "peers": 2 * (run.LIMITS["unpack"] + run.LIMITS["peers"])})

    def test_the_limits_of_variants_fit_in_their_step(self):
        variants = sum(variant["limit"] for variant in run.VARIANTS.values())
        self.assertLessEqual(variants + 2 * run.SHIPPED_LIMIT + run.CHECK_LIMIT, run.LIMITS["rates"])

    def test_what_a_step_printed_before_its_limit_is_kept(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaises(run.StepFailed) as failed:
                run.run_step(["bash", "-c", "echo '{\"a\": 1}'; sleep 60"], 1, f"{folder}/log")
        self.assertEqual(run.json_lines(failed.exception.output), [{"a": 1}])

    def test_background_programs_end_with_the_block(self):
        with tempfile.TemporaryDirectory() as folder:
            with processes.Background() as background:
                process = background.start(["sleep", "60"], f"{folder}/log")
            self.assertEqual(process.returncode, -signal.SIGTERM)

    def test_a_hanging_step_is_killed_with_its_children(self):
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            with self.assertRaisesRegex(run.StepFailed, "longer than"):
                run.run_step(["bash", "-c", "cat /dev/zero | cat > /dev/null"], 0.5, f"{folder}/log")
            self.assertLess(time.monotonic() - start, 20)

    def test_a_failure_includes_the_program_s_error_or_else_its_last_line(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(run.StepFailed, "status 3: error: no such flag"):
                run.run_step(["bash", "-c", "echo 'error: no such flag' >&2; echo try --help >&2; exit 3"], 30, f"{folder}/log")
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
