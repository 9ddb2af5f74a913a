import Testing
import Transport

@Suite struct SSHTargetTests {
    @Test(arguments: [
        ("host", SSHTarget(host: "host")),
        ("me@host", SSHTarget(user: "me", host: "host")),
        ("me@host:2222", SSHTarget(user: "me", host: "host", port: 2222)),
        ("me@corp@host", SSHTarget(user: "me@corp", host: "host")),
        ("[::1]", SSHTarget(host: "::1")),
        ("me@[fe80::1%eth0]:22", SSHTarget(user: "me", host: "fe80::1%eth0", port: 22)),
        ("ssh://host", SSHTarget(host: "host")),
        ("ssh://host/", SSHTarget(host: "host")),
        ("SSH://me@host:22/srv/a", SSHTarget(user: "me", host: "host", port: 22, path: "/srv/a")),
        ("ssh://host/~/a/b", SSHTarget(host: "host", path: "a/b")),
        ("ssh://host/a%20b:c@d", SSHTarget(host: "host", path: "/a b:c@d")),
        ("ssh://[::1]:5/x", SSHTarget(host: "::1", port: 5, path: "/x")),
    ]) func `targets without a folder after a colon`(text: String, expected: SSHTarget) throws {
        #expect(try SSHTarget(parsing: text) == expected)
    }

    @Test(arguments: [
        ("host:/disks/a", SSHTarget(host: "host", path: "/disks/a")),
        ("me@host:22:/disks/a", SSHTarget(user: "me", host: "host", port: 22, path: "/disks/a")),
        ("host:disks/a:b@c", SSHTarget(host: "host", path: "disks/a:b@c")),
        ("host:22a", SSHTarget(host: "host", path: "22a")),
        ("[::1]:/d", SSHTarget(host: "::1", path: "/d")),
        ("[::1]:22:/d", SSHTarget(host: "::1", port: 22, path: "/d")),
        ("ssh://host/d", SSHTarget(host: "host", path: "/d")),
    ]) func `targets with a folder`(text: String, expected: SSHTarget) throws {
        #expect(try SSHTarget(parsingWithFolder: text) == expected)
    }

    @Test(arguments: [
        "", "@", "me@", "@host", ":22", "host:", "host:0", "host:65536", "host:x", "host:22x", "-oProxyCommand=x",
        "me@-x",
        "ho st", "ho;st", "ho\nst", "$(x)", "::1", "fe80::1", "[::1", "[]", "[host]", "[::1]x", "me:pw@host", "host/x",
        "ssh://", "ssh:///x", "ssh://host/%zz", "ssh://host/%0", "ssh://host/a%00b", "ssh://host/%ff", "ssh://-x/y",
    ]) func `what is no target is refused`(text: String) {
        let error = #expect(throws: TransportError.self) { try SSHTarget(parsing: text) }
        #expect(error?.code == .invalidTarget)
    }

    @Test(arguments: ["host", "host:", "host:22", "host:22:", "me@host", "[::1]", "[::1]:22", "ssh://host", "-x:/d"])
    func `what names no folder is refused where one is needed`(text: String) {
        let error = #expect(throws: TransportError.self) { try SSHTarget(parsingWithFolder: text) }
        #expect(error?.code == .invalidTarget)
    }

    @Test func `a target prints as ssh takes it`() {
        #expect(SSHTarget(user: "me", host: "h", port: 22, path: "/x").description == "me@h:22")
        #expect(SSHTarget(host: "::1", port: 22).description == "[::1]:22")
    }
}
