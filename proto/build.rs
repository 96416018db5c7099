//! Compiles `schema/*.proto` in this process (protox), so that building Halley needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=schema");
    let files = protox::compile(["protocol.proto", "comet.proto", "logic.proto"], ["schema"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
