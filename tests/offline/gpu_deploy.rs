//! The files in `deploy/` that run the service on a GPU agree with each other, with the main unit and with the models.

use std::{fs, path::Path};

use regex::Regex;

const COMPOSE: &str = "compose.gpu.yaml";
const KUBERNETES: &str = "kubernetes-gpu/kustomization.yaml";
const UNIT: &str = "systemd/moodstream.service";
const DROP_IN: &str = "systemd/moodstream-gpu.conf";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the lines of a file in `deploy/` without comments and indentation.
fn lines(file: &str) -> Vec<String> {
    fs::read_to_string(root().join("deploy").join(file))
        .unwrap()
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.starts_with('#'))
        .collect()
}

#[track_caller]
fn assert_line(file: &str, line: &str) {
    let lines = lines(file);
    assert!(
        lines.iter().any(|found| found == line),
        "{file} has no line `{line}`: {lines:#?}"
    );
}

/// Returns the last value of an option in a unit file.
fn option(file: &str, name: &str) -> Option<String> {
    let lines = lines(file);
    lines
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

#[test]
fn compose_kubernetes_and_systemd_select_cuda_and_request_a_gpu() {
    assert_line(COMPOSE, "image: moodstream:gpu");
    assert_line(COMPOSE, "MOODSTREAM_MODEL__PROVIDER: cuda");
    assert_line(COMPOSE, "- { driver: nvidia, count: 1, capabilities: [gpu] }");
    assert_line(KUBERNETES, "- { name: moodstream, newTag: gpu }");
    assert_line(KUBERNETES, "- { name: MOODSTREAM_MODEL__PROVIDER, value: cuda }");
    let limits = lines(KUBERNETES)
        .into_iter()
        .find(|line| line.starts_with("limits:"))
        .unwrap();
    assert!(limits.contains("nvidia.com/gpu: \"1\""), "{limits}");
    assert_line(DROP_IN, "Environment=MOODSTREAM_MODEL__PROVIDER=cuda");
    assert_line(DROP_IN, "DeviceAllow=char-nvidia* rw");
}

#[test]
fn the_models_selected_for_a_gpu_have_an_fp16_file() {
    let folder = Regex::new(r"/models/([\w.-]+)").unwrap();
    for file in [COMPOSE, KUBERNETES] {
        let text = lines(file).join("\n");
        let models: Vec<&str> = folder
            .captures_iter(&text)
            .map(|found| found.extract::<1>().1[0])
            .collect();
        assert_eq!(models.len(), 1, "{file}: {models:?}");
        let path = root().join("models").join(models[0]).join("onnx/model_fp16.onnx");
        assert!(path.is_file(), "{file}: there is no {}", path.display());
    }
}

#[test]
fn the_drop_in_overrides_the_options_of_the_unit_that_stop_cuda() {
    let stopping = [
        ("PrivateDevices", "no"),
        ("DevicePolicy", "closed"),
        ("ProcSubset", "all"),
        ("MemoryDenyWriteExecute", "no"),
    ];
    for (name, needed) in stopping {
        if option(UNIT, name).is_some_and(|value| value != needed) {
            assert_eq!(option(DROP_IN, name).as_deref(), Some(needed), "{name}");
        }
    }
    // Without an error number, a forbidden call kills the service.
    if option(UNIT, "SystemCallFilter").is_some() {
        assert_eq!(option(DROP_IN, "SystemCallErrorNumber").as_deref(), Some("EPERM"));
    }
}

#[test]
fn the_image_and_the_unit_find_the_same_runtime_and_one_release_of_cuda() {
    let image = lines("Dockerfile").join("\n");
    let runtime = "ORT_DYLIB_PATH=/usr/local/lib/onnxruntime/libonnxruntime.so";
    assert!(image.contains(runtime));
    assert_line(UNIT, &format!("Environment={runtime}"));
    assert_line(DROP_IN, "Environment=LD_LIBRARY_PATH=/usr/local/cuda/lib64");

    let version = Regex::new(r"(?m)^ARG CUDA_VERSION=(\d+)\.").unwrap();
    let (_, [major]) = version.captures(&image).unwrap().extract();
    assert!(
        image.contains(&format!(" libnvrtc.so.{major};")),
        "the image checks for the libraries of another release than {major}"
    );
    let requirements = fs::read_to_string(root().join("deploy/requirements-gpu.txt")).unwrap();
    assert!(requirements.contains(&format!("CUDA {major} ")), "{requirements}");
}
