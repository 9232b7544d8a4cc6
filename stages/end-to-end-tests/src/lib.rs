//! What the end-to-end tests stand on: the real binaries, a running `millstream up`, the real `nats` CLI, and waiting for a
//! condition. The tests themselves are under `tests/`, named by behaviour. Everything listens on the loopback interface, on
//! free ports, in folders that go with the test.

pub mod binaries;
pub mod browser;
pub mod command_load;
pub mod day;
pub mod dumps;
pub mod go_tool;
pub mod hostile;
pub mod http_client;
pub mod kubernetes_validate;
pub mod live_stream;
pub mod nats_cli;
pub mod nats_proxy;
pub mod node;
pub mod program;
pub mod slow_line;
pub mod small_disk;
pub mod soak;
pub mod stage_process;
pub mod system;
pub mod waiting;
