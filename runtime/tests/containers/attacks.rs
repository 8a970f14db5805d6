//! Attacks on the keeper, whose command over all containers is its socket.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use skep_runtime::keeper::KeeperClient;
use skep_runtime::spec::oci::LinuxNamespaceType;

use super::cases::Case;
use super::house::House;

/// Nobody of this machine.
const STRANGER: u32 = 77_777;

pub(crate) const CASES: &[Case] =
    &[("no_container_and_no_stranger_reaches_the_keeper", no_container_and_no_stranger_reaches_the_keeper)];

/// A program that tries to give the keeper an order.
pub(crate) fn stranger(args: &[String]) -> ExitCode {
    let [run] = args else { panic!("stranger RUN") };
    match KeeperClient::connect(Path::new(run)) {
        Err(error) => println!("not let in: {error}"),
        Ok(client) => match client.ping() {
            Err(error) => println!("not answered: {error}"),
            Ok(_) => println!("answered"),
        },
    }
    ExitCode::SUCCESS
}

/// CVE-2020-15257: an abstract socket belongs to the network namespace, and a container may share the host's.
fn no_container_and_no_stranger_reaches_the_keeper() {
    let house = House::new();
    let (_, seen) = house.run("one", &["read", "/proc/net/unix"], |spec| {
        let mut linux = spec.linux().clone().unwrap();
        let mut namespaces = linux.namespaces().clone().unwrap();
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
        linux.set_namespaces(Some(namespaces));
        spec.set_linux(Some(linux));
    });
    let run = house.options.run_dir.to_str().unwrap();
    let names: Vec<&str> = seen
        .lines()
        .filter(|line| line.contains(run))
        .filter_map(|line| line.split(' ').next_back())
        .collect();
    assert!(!names.is_empty(), "the container does not see the host's network: {seen}");
    assert!(names.iter().all(|name| name.starts_with('/')), "{names:?}");
    let sockets = std::fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    let sockets: Vec<_> =
        sockets.filter(|path| path.symlink_metadata().unwrap().file_type().is_socket()).collect();
    for path in &sockets {
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600, "{}", path.display());
    }
    // As if no mode of a file or directory kept anybody out.
    let said = |uid: Option<u32>| {
        let program = house.dir.path().join("stranger");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut command = Command::new(program);
        command.args(["stranger", run]);
        uid.map(|uid| command.uid(uid));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(house.dir.path(), 0o755);
    open(&house.options.run_dir, 0o755);
    assert!(said(Some(STRANGER)).starts_with("not let in"));
    sockets.iter().for_each(|path| open(path, 0o666));
    assert!(said(Some(STRANGER)).starts_with("not answered"));
    assert_eq!(said(None), "answered\n");
    house.close();
}
