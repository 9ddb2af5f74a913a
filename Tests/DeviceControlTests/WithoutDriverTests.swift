import DeviceControl
import LinuxSystem
import SystemPackage
import Testing

/// What holds on every host, with or without the driver.
struct WithoutDriverTests {
    @Test func aHostWithoutTheDriverSaysSo() throws {
        guard !Driver.isLoaded else { return }
        do throws(DriverError) {
            _ = try Driver()
            Issue.record("the control file was opened")
        } catch {
            #expect([.notLoaded, .notPermitted].contains(error.code), "\(error)")
            #expect(error.message.contains("/dev/ploop-control"), "\(error)")
        }
        #expect(try AttachedStack.all().allSatisfy { !$0.files.isEmpty })
    }

    @Test(arguments: [
        (JobStatus.State.done, nil as DriverError.Code?), (.cancelled, .cancelled), (.failed, .damaged),
    ]) func aJobsEndIsAnErrorUnlessItWasDone(_ state: JobStatus.State, _ code: DriverError.Code?) {
        let status = JobStatus(state: state, errno: Errno(rawValue: 117), doneBytes: 0, totalBytes: 0)
        #expect(DriverError(status, "merge", DeviceIndex(3))?.code == code)
    }

    @Test func aDeviceHasThePathOfItsNode() { #expect(DeviceIndex(12).path == "/dev/ploop12") }
}
