//! The connection to systemd's manager: its private socket, or the system bus.

use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::wire::{Call, HEAD, Reply, Value, Writer, length, parse};
use crate::cgroup::CgroupError;

const PRIVATE: &str = "/run/systemd/private";
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// How long systemd may take for an answer or a job, as in runc.
const PATIENCE: Duration = Duration::from_secs(30);

/// Messages that are read in vain for one that is waited for; a busy bus sends many signals.
const MESSAGES_MAX: usize = 100_000;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const NO_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// Systemd's manager.
#[derive(Debug)]
pub(super) struct Manager {
    stream: UnixStream,
    /// The name to send to; there is none on the private socket.
    destination: &'static str,
    serial: u32,
    /// Ended jobs that were told while something else was waited for: path and result.
    ended: Vec<(String, String)>,
}

/// An answer that is a refusal.
type Refused = (String, String);

impl Manager {
    pub(super) fn connect() -> Result<Self, CgroupError> {
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(CgroupError::NoSystemd);
        }
        let failed = |source| CgroupError::Bus { action: "connect to", source };
        match UnixStream::connect(PRIVATE) {
            Ok(stream) => Self::over(stream, "").map_err(failed),
            Err(_) => {
                let stream = UnixStream::connect(SYSTEM_BUS).map_err(failed)?;
                Self::over(stream, SYSTEMD).map_err(failed)
            }
        }
    }

    /// Introduces itself on a stream and asks to be told of jobs. `destination`: empty if there is no bus in between.
    pub(super) fn over(stream: UnixStream, destination: &'static str) -> Result<Self, Error> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut manager = Self { stream, destination, serial: 0, ended: Vec::new() };
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        // In one piece with its end: what follows a BEGIN in the same read systemd leaves lying until more comes, so a
        // first call sent behind a separate BEGIN is sometimes never answered.
        manager.stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            let mut byte = [0];
            manager.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        if !line.starts_with(b"OK ") {
            return Err(Error::new(ErrorKind::PermissionDenied, "it does not accept this user"));
        }
        if !destination.is_empty() {
            manager.bus("Hello", None)?;
            let rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
            manager.bus("AddMatch", Some(rule))?;
        }
        // Without it systemd sends no signals of jobs.
        manager.call("Subscribe", "", Writer::default())?.map_err(refused)?;
        Ok(manager)
    }

    fn bus(&mut self, member: &str, text: Option<&str>) -> Result<(), Error> {
        let bus = "org.freedesktop.DBus";
        let mut body = Writer::default();
        text.iter().for_each(|text| body.text(text));
        let signature = if text.is_some() { "s" } else { "" };
        let call =
            Call { destination: bus, path: "/org/freedesktop/DBus", interface: bus, member, signature };
        self.send(&call, body)?.map(drop).map_err(refused)
    }

    fn call(
        &mut self,
        member: &str,
        signature: &str,
        body: Writer,
    ) -> Result<Result<Vec<String>, Refused>, Error> {
        let call = Call { destination: self.destination, path: PATH, interface: MANAGER, member, signature };
        self.send(&call, body)
    }

    fn send(&mut self, call: &Call<'_>, body: Writer) -> Result<Result<Vec<String>, Refused>, Error> {
        self.serial += 1;
        self.stream.write_all(&call.message(self.serial, body))?;
        for _ in 0..MESSAGES_MAX {
            match self.receive()? {
                Reply::Return { to, texts } if to == self.serial => return Ok(Ok(texts)),
                Reply::Error { to, name, text } if to == self.serial => return Ok(Err((name, text))),
                _ => {}
            }
        }
        Err(Error::new(ErrorKind::TimedOut, "it does not answer"))
    }

    fn receive(&mut self) -> Result<Reply, Error> {
        let wrong = || Error::new(ErrorKind::InvalidData, "it sends what is not D-Bus");
        let mut head = [0; HEAD];
        self.stream.read_exact(&mut head)?;
        let mut message = head.to_vec();
        message.resize(length(&head).ok_or_else(wrong)?, 0);
        self.stream.read_exact(&mut message[HEAD..])?;
        let reply = parse(&message).ok_or_else(wrong)?;
        if let Reply::Signal { member, texts } = &reply
            && member == "JobRemoved"
            && let [job, _unit, result] = &texts[..]
        {
            self.ended.push((job.clone(), result.clone()));
        }
        Ok(reply)
    }

    /// Waits for a job's end and tells its result.
    fn wait(&mut self, job: &str) -> Result<String, Error> {
        for _ in 0..MESSAGES_MAX {
            if let Some(ended) = self.ended.iter().find(|ended| ended.0 == job) {
                return Ok(ended.1.clone());
            }
            self.receive()?;
        }
        Err(Error::new(ErrorKind::TimedOut, "the job does not end"))
    }

    /// The number in front of systemd's version, such as 252.
    pub(super) fn version(&mut self) -> Result<u32, CgroupError> {
        let mut body = Writer::default();
        body.text(MANAGER);
        body.text("Version");
        let interface = "org.freedesktop.DBus.Properties";
        let call =
            Call { destination: self.destination, path: PATH, interface, member: "Get", signature: "ss" };
        let answer = self.send(&call, body).map_err(talk)?;
        let texts = answer.map_err(|refused| refusal("Get", "its version", refused))?;
        let text = texts.first().map(String::as_str).unwrap_or_default();
        let digits: String = text.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse().unwrap_or(0))
    }

    /// Makes a transient unit and waits until it is there. A failed one of that name is forgotten first.
    pub(super) fn start(&mut self, unit: &str, properties: &[(String, Value)]) -> Result<(), CgroupError> {
        let method = "StartTransientUnit";
        let body = || {
            let mut body = Writer::default();
            body.text(unit);
            body.text("replace");
            body.properties(properties);
            // No further units.
            body.array(8, |_| {});
            body
        };
        let mut answer = self.call(method, "ssa(sv)a(sa(sv))", body()).map_err(talk)?;
        if answer.as_ref().is_err_and(|refused| refused.0 == UNIT_EXISTS) {
            self.forget(unit)?;
            answer = self.call(method, "ssa(sv)a(sa(sv))", body()).map_err(talk)?;
        }
        let texts = answer.map_err(|refused| refusal(method, unit, refused))?;
        let result = self.wait(texts.first().map(String::as_str).unwrap_or_default()).map_err(talk)?;
        if result == "done" {
            return Ok(());
        }
        self.forget(unit)?;
        Err(refusal(method, unit, (String::new(), format!("the job's result is {result}"))))
    }

    /// Changes a unit for as long as it is there.
    pub(super) fn set(&mut self, unit: &str, properties: &[(String, Value)]) -> Result<(), CgroupError> {
        let mut body = Writer::default();
        body.text(unit);
        body.u32(1);
        body.properties(properties);
        let answer = self.call("SetUnitProperties", "sba(sv)", body).map_err(talk)?;
        answer.map(drop).map_err(|refused| refusal("SetUnitProperties", unit, refused))
    }

    /// Stops a unit and has it forgotten. One that is not there is fine.
    pub(super) fn stop(&mut self, unit: &str) -> Result<(), CgroupError> {
        let mut body = Writer::default();
        body.text(unit);
        body.text("replace");
        match self.call("StopUnit", "ss", body).map_err(talk)? {
            // Whatever the result is, the group's processes are gone; a failed unit is forgotten next.
            Ok(texts) => {
                drop(self.wait(texts.first().map(String::as_str).unwrap_or_default()).map_err(talk)?)
            }
            Err((name, _)) if name == NO_UNIT => return Ok(()),
            Err(refused) => return Err(refusal("StopUnit", unit, refused)),
        }
        self.forget(unit)
    }

    fn forget(&mut self, unit: &str) -> Result<(), CgroupError> {
        let mut body = Writer::default();
        body.text(unit);
        // It refuses for a unit that has not failed, or is gone.
        self.call("ResetFailedUnit", "s", body).map_err(talk).map(drop)
    }
}

fn talk(source: Error) -> CgroupError {
    CgroupError::Bus { action: "talk to", source }
}

fn refused((name, text): Refused) -> Error {
    Error::other(format!("{name}: {text}"))
}

fn refusal(method: &'static str, unit: &str, (name, text): Refused) -> CgroupError {
    let message = if name.is_empty() { text } else { format!("{text} ({name})") };
    CgroupError::Systemd { method, unit: unit.to_owned(), message }
}
