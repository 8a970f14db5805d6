//! How the program is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The tests of attacks want a build that can leave its program in reach.
    let weakened = std::env::var_os("CARGO_FEATURE_WEAKENED").is_some();
    if !weakened && std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        // It starts in `src/start.rs`.
        println!("cargo:rustc-link-arg-bins=-Wl,-e,skep_start");
    }
    // At a fixed address: the pages that a static program at a random one has to relocate are copied in every start,
    // a twentieth of what `run` takes. A process lives for milliseconds and is not written in C.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rustc-link-arg-bins=-static");
}
