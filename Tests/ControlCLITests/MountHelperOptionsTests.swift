import AgentCore
import Testing

@testable import ControlCLI

/// What mount(8) passes to its helper.
@Suite struct MountHelperOptionsTests {
    private func passedOn(_ lists: String...) throws -> String { try MountHelperOptions(parsing: lists).passedOn }

    @Test func ownOptionsAreTaken() throws {
        let options = try MountHelperOptions(
            parsing: ["rw,partition=2,backend=user", "ro,buffered,config=/etc/other.toml"])
        #expect(options.partition == 2)
        #expect(options.backend?.backend == .user)
        #expect(options.configurationFile == "/etc/other.toml")
        #expect(options.isReadOnly && options.isBuffered)
        #expect(options.passedOn == "helper=godwit")
    }

    @Test func nothingIsAssumed() throws {
        let options = try MountHelperOptions(parsing: [])
        #expect(options.partition == nil && options.backend == nil && options.configurationFile == nil)
        #expect(!options.isReadOnly && !options.isBuffered)
        #expect(try MountHelperOptions(parsing: ["backend=auto"]).backend == BackendChoice(argument: "auto"))
    }

    @Test func theRestGoesToTheFileSystem() throws {
        #expect(try passedOn("noatime,,data=journal", "nosuid") == "helper=godwit,noatime,data=journal,nosuid")
        #expect(try passedOn(#"context="a,b",noexec"#) == #"helper=godwit,context="a,b",noexec"#)
        // Flags with a value, and names that only begin like one of ours, are not ours.
        #expect(try passedOn("ro=later,partitions=3") == "helper=godwit,ro=later,partitions=3")
    }

    @Test func wordsForOthersAreDropped() throws {
        let words =
            "defaults,auto,noauto,nofail,_netdev,user,x-systemd.automount,X-mount.mkdir=755,comment=mine,helper=other"
        #expect(try passedOn(words) == "helper=godwit")
    }

    @Test(arguments: [
        "partition", "partition=", "partition=0", "partition=-1", "partition=x", "backend=", "backend=both", "config=",
    ])
    func wrongValuesAreUsageErrors(_ word: String) throws {
        let failure = #expect(throws: CommandFailure.self) { try MountHelperOptions(parsing: ["noatime,\(word)"]) }
        #expect(failure?.status == .usage)
    }
}
