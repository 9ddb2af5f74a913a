import LinuxSystem
import TestSupport
import Testing

private let faultsWanted = environmentVariable("GODWIT_TORTURE").flatMap { Int($0) } ?? 0

/// Kills, cuts and full file systems at random instants of backup, restore and migration, with real processes: nothing
/// that was acknowledged is lost, no point is wrong, one host owns the disk, and the same command again goes on.
///
/// Only `make torture` runs it: `GODWIT_TORTURE` is the number of faults.
@Suite(
    .enabled(
        if: faultsWanted > 0 && Product.isBuilt && isRoot && SSHServer.isInstalled,
        "needs GODWIT_TORTURE, root, sshd, and the program and its plugin beside the tests"))
struct TortureTests {
    static let roundsPerWorld = 12

    @Test func faultsAtRandomInstantsBreakNoPromise() throws {
        var random = SeededRandom("torture")
        var faults = 0
        var rounds = 0
        while faults < faultsWanted {
            let seed = random.next()
            let world = try TortureWorld(SeededRandom(seed: seed))
            for round in 0..<Self.roundsPerWorld where faults + world.disturbances < faultsWanted {
                rounds += 1
                do { try world.round() } catch {
                    let history = world.history.suffix(30).joined(separator: "\n")
                    Issue.record("world \(seed), round \(round): \(error)\n\(history)")
                    return
                }
            }
            world.quiet()
            faults += world.disturbances
            if faultsWanted > 100 { print("torture: \(faults) faults in \(rounds) rounds") }
        }
        print("torture: \(faults) kills, cuts and full file systems in \(rounds) rounds")
    }
}
