//! `keylessd`: see the library's documentation.

fn main() {
    let argv: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    std::process::exit(keyless_node::app::run(&argv));
}
