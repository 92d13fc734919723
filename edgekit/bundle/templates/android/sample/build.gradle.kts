plugins {
    id("com.android.application")
    kotlin("android")
}

android {
    namespace = "edgekit.sample"
    compileSdk = 36
    defaultConfig {
        applicationId = "edgekit.sample"
        minSdk = 28
        targetSdk = 36
        versionCode = 1
        versionName = "1"
    }
    androidResources { noCompress += "tflite" }
    sourceSets["main"].assets.srcDir(layout.buildDirectory.dir("bundle"))
    tasks.register<Copy>("copyBundle") {
        from(rootDir.parentFile) { include("preprocessor_config.json", "tflite/model_w8a8.tflite") }
        into(layout.buildDirectory.dir("bundle"))
    }
    tasks.named("preBuild") { dependsOn("copyBundle") }
}

kotlin { jvmToolchain(17) }

dependencies { implementation(project(":embed")) }
