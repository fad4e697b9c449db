//! The build script of `crates/addon`: how a Node addon is linked on each platform, and what it is told about its build.

fn main() {
    napi_build::setup();
    // Cargo tells these to build scripts only.
    for (variable, source) in [("ADDON_TARGET", "TARGET"), ("ADDON_PROFILE", "PROFILE")] {
        println!("cargo:rustc-env={variable}={}", std::env::var(source).unwrap_or_default());
    }
}
