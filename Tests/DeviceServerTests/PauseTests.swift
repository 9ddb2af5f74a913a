import AgentAPI
import BlockIO
@testable import DeviceServer
import DiskImage
import LinuxSystem
import TestSupport
import Testing

@Suite(.timeLimit(.minutes(5))) struct PauseTests {
    @Test func writesWaitForTheResume() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        try client.perform(.pause(deadlineMilliseconds: 60_000))
        #expect(try client.status().isPaused)
        let writer = try Background { try? disk.write(1, at: 0, count: 4096) }
        #expect(try !writer.ends(withinMilliseconds: 50))
        // Reads go on.
        #expect(try disk.read(at: 0, count: 512).allSatisfy { $0 == 0 })
        try client.perform(.resume)
        #expect(try writer.ends(withinMilliseconds: 10_000))
        writer.join()
        #expect(try disk.read(at: 0, count: 512).allSatisfy { $0 == 1 })
    }

    @Test func aPauseEndsAtItsDeadlineAndSaysSo() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        try client.perform(.pause(deadlineMilliseconds: 20))
        let writer = try Background { try? disk.write(1, at: 0, count: 4096) }
        #expect(try writer.ends(withinMilliseconds: 10_000))
        writer.join()
        let error = #expect(throws: ControlError.self) { try client.perform(.resume) }
        #expect(error?.code == ControlError.expired)
        // Told once; from then on there is nothing to resume.
        try client.perform(.resume)
        try client.perform(.pause(deadlineMilliseconds: 60_000))
        try client.perform(.resume)
    }

    @Test func anExpiredPauseCannotBeReleased() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        try client.perform(.pause(deadlineMilliseconds: 1))
        let writer = try Background { try? disk.write(1, at: 0, count: 4096) }
        #expect(try writer.ends(withinMilliseconds: 10_000))
        writer.join()
        let error = #expect(throws: ControlError.self) { try client.perform(.release) }
        #expect(error?.code == ControlError.expired)
        try disk.write(2, at: 0, count: 4096)
    }

    @Test func aPauseEndsWithItsConnection() throws {
        let disk = try ServedDisk()
        var client: ControlClient? = try disk.client()
        try client?.perform(.pause(deadlineMilliseconds: 60_000))
        let writer = try Background { try? disk.write(1, at: 0, count: 4096) }
        client = nil
        #expect(try writer.ends(withinMilliseconds: 10_000))
        writer.join()
    }

    @Test func onlyOneConnectionPausesAtATime() throws {
        let disk = try ServedDisk()
        let first = try disk.client()
        let second = try disk.client()
        try first.perform(.pause(deadlineMilliseconds: 60_000))
        let error = #expect(throws: ControlError.self) { try second.perform(.pause(deadlineMilliseconds: 1000)) }
        #expect(error?.code == ControlError.busy)
        // Not its own: no effect.
        try second.perform(.resume)
        #expect(try first.status().isPaused)
        try first.perform(.resume)
        try second.perform(.pause(deadlineMilliseconds: 60_000))
        try second.perform(.resume)
    }

    @Test func aReleasedDiskFailsAllRequestsForGood() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        try disk.write(1, at: 0, count: 4096)
        try client.perform(.pause(deadlineMilliseconds: 60_000))
        let writer = try Background { try? disk.write(2, at: 0, count: 4096) }
        try client.perform(.release)
        #expect(try !writer.ends(withinMilliseconds: 50))
        try client.perform(.confirmRelease)
        #expect(try writer.ends(withinMilliseconds: 10_000))
        writer.join()
        let fault = #expect(throws: DeviceFault.self) { try disk.read(at: 0, count: 512) }
        #expect(fault?.number == DeviceFault.shutdownNumber)
        #expect(try client.status().isReleased)
        for request in [ControlRequest.prepareSnapshot, .listSnapshots, .pause(deadlineMilliseconds: 10)] {
            let error = #expect(throws: ControlError.self) { try client.perform(request) }
            #expect(error?.code == ControlError.released)
        }
        try client.perform(.shutdown)
        // The image stays whole: what was acknowledged is in it.
        let again = try Disk.open(disk.path, in: LinuxFileSystem())
        var bytes = [UInt8](repeating: 0, count: 4096)
        try bytes.withUnsafeMutableBytes { try again.read(at: 0, into: $0) }
        #expect(bytes.allSatisfy { $0 == 1 })
        try again.close()
    }

    @Test func aReleaseWithoutARecordEndsWithItsConnection() throws {
        let disk = try ServedDisk()
        var client: ControlClient? = try disk.client()
        try client?.perform(.pause(deadlineMilliseconds: 20))
        try client?.perform(.release)
        let writer = try Background { try? disk.write(1, at: 0, count: 4096) }
        // The deadline of the pause counts no more.
        #expect(try !writer.ends(withinMilliseconds: 100))
        client = nil
        #expect(try writer.ends(withinMilliseconds: 10_000))
        writer.join()
        #expect(try disk.read(at: 0, count: 512).allSatisfy { $0 == 1 })
        #expect(try !disk.client().status().isReleased)
    }

    @Test func aReleaseWithARecordLastsWhateverBecomesOfItsConnection() throws {
        let disk = try ServedDisk()
        var client: ControlClient? = try disk.client()
        try client?.perform(.pause(deadlineMilliseconds: 60_000))
        try client?.perform(.release)
        let writer = try Background { #expect(throws: DeviceFault.self) { try disk.write(1, at: 0, count: 4096) } }
        let record = disk.path + "/godwit-migrated.json"
        _ = try LinuxFileSystem().open(record, OpenMode(writable: true, creation: .exclusive))
        client = nil
        #expect(try writer.ends(withinMilliseconds: 10_000))
        writer.join()
        #expect(try disk.client().status().isReleased)
    }

    @Test(arguments: ["moved", "unlocked"])
    func aReleaseWithoutARecordLetsWritesGoOnWhateverBecameOfTheFolder(change: String) throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        try client.perform(.pause(deadlineMilliseconds: 60_000))
        try client.perform(.release)
        let writer = try Background { #expect(throws: Never.self) { try disk.write(1, at: 0, count: 4096) } }
        if change == "moved" {
            try LinuxFileSystem().rename(disk.path, to: disk.path + ".old")
        } else {
            try LinuxFileSystem().remove(disk.path + "/godwit.lock")
        }
        try client.perform(.resume)
        #expect(try writer.ends(withinMilliseconds: 10_000))
        writer.join()
        #expect(try !client.status().isReleased)
        #expect(try disk.read(at: 0, count: 512).allSatisfy { $0 == 1 })
    }

    @Test func aRecordInAFolderThatWasMovedCounts() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        try client.perform(.pause(deadlineMilliseconds: 60_000))
        try client.perform(.release)
        let writer = try Background { #expect(throws: DeviceFault.self) { try disk.write(1, at: 0, count: 4096) } }
        let moved = disk.path + ".old"
        try LinuxFileSystem().rename(disk.path, to: moved)
        _ = try LinuxFileSystem().open(
            moved + "/godwit-migrated.json", OpenMode(writable: true, creation: .exclusive))
        try client.perform(.resume)
        #expect(try writer.ends(withinMilliseconds: 10_000))
        writer.join()
        #expect(try client.status().isReleased)
    }

    @Test func aReleaseThatIsTakenBackLetsWritesGoOn() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        try client.perform(.pause(deadlineMilliseconds: 60_000))
        try client.perform(.release)
        try client.perform(.resume)
        try disk.write(2, at: 0, count: 4096)
        let error = #expect(throws: ControlError.self) { try client.perform(.confirmRelease) }
        #expect(error?.code == ControlError.invalid)
    }

    @Test func stoppingInAReleaseFailsWhatIsHeld() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        try disk.write(1, at: 0, count: 4096)
        try client.perform(.pause(deadlineMilliseconds: 60_000))
        try client.perform(.release)
        let hasFailed = Monitor(false)
        let writer = try Background {
            do { try disk.write(2, at: 0, count: 4096) } catch { hasFailed.change { $0 = true } }
        }
        try disk.server.stop()
        #expect(try writer.ends(withinMilliseconds: 10_000))
        writer.join()
        #expect(hasFailed.withLock { $0 })
    }

    @Test func stoppingEndsAPause() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        try client.perform(.pause(deadlineMilliseconds: 60_000))
        let writer = try Background { try? disk.write(1, at: 0, count: 4096) }
        try disk.server.stop()
        #expect(try writer.ends(withinMilliseconds: 10_000))
        writer.join()
    }
}
