//! Compiles `schema/*.proto` in this process (protox), so that building Halley needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=schema");
    let files =
        protox::compile(["protocol.proto", "comet.proto", "logic.proto", "halley.proto"], ["schema"])?;
    // Without its own `connect`, a generated client has room for the gRPC call of that name.
    tonic_prost_build::configure().build_transport(false).bytes(".").compile_fds(files)?;
    Ok(())
}
