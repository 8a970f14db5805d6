//! The cases.

use super::house::House;

type Case = (&'static str, fn());

pub(crate) const CASES: &[Case] = &[("create_start_kill_delete", create_start_kill_delete)];

fn create_start_kill_delete() {
    let house = House::new();
    let mut request = house.request("one", &["wait-term", "7"], |_| {});
    request.start = false;
    let pid = house.client.create(&request, None).unwrap();
    assert_eq!(house.client.list().unwrap().len(), 1);
    house.client.start("one").unwrap();
    assert_eq!(house.info("one").pid, Some(pid));
    super::house::wait("ready", || (house.output("one", "stdout") == "ready\n").then_some(()));
    house.client.kill("one", 15, false).unwrap();
    assert_eq!(house.wait_exit("one").code(), 7);
    house.client.delete("one").unwrap();
    assert!(house.client.list().unwrap().is_empty());
    house.close();
}
